"""A fine-tuned model as one GGUF file, for llama.cpp: ``python -m tools.export_gguf MODEL FILE``.

Vectors in float32, as llama.cpp's own conversion has it, and beside the file a Modelfile for
Ollama. A model that is not proved to say the same there is refused; llama.cpp's
convert_hf_to_gguf.py reads the folder of any other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.export_gguf.gguf_file import TYPES, export
from tools.export_gguf.modelfile import modelfile
from tuning.run.files import new_file, write_text
from tuning.run.process import run_stage


def main() -> None:
    """Write the files; a half-written one never has its name."""
    parser = argparse.ArgumentParser(prog="python -m tools.export_gguf", description=__doc__)
    parser.add_argument("model", type=Path, help="a folder of stage release")
    parser.add_argument("file", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=TYPES, default="f16", help="of the matrices")
    args = parser.parse_args()
    with new_file(args.file) as temporary:
        export(args.model, temporary, kind=args.type)
    beside = args.file.with_suffix(".Modelfile")
    write_text(beside, modelfile(args.model, args.file.name))
    print(f"export: {args.file}, {args.file.stat().st_size / 1e6:,.1f} MB; for Ollama: {beside}")


if __name__ == "__main__":
    run_stage("export", main)
