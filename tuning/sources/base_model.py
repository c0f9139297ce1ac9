"""The base model as one plain folder: config.json, safetensors weights, a fast tokenizer.

Three origins (a hub repository at a commit, a local folder, a GGUF file) end in the same layout and
pass the same check (``model_check``). Weights keep the bytes they came with; only GGUF is
dequantised, to float32.

transformers is imported where it is used: it brings torch, which takes seconds, and what is wrong
with a name or a network is said at once.
"""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from tuning.embedded import EMBEDDED_MODEL
from tuning.progress import growing, waiting
from tuning.run.errors import UserError
from tuning.run.files import disk_errors, write_json
from tuning.sources.hub import HUB_ID, Repository, checked_commit

Origin = Literal["embedded", "folder", "hub"]

# No pickles, no code, and no second copy of the weights (onnx/, model.fp16.safetensors).
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)


def origin_of(name: str, revision: str | None) -> Origin:
    """Say what ``model.name`` and ``model.revision`` stand for.

    Raises:
        UserError: they stand for nothing.
    """
    origin: Origin = (
        "embedded" if name == EMBEDDED_MODEL else "folder" if Path(name).is_dir() else "hub"
    )
    if origin == "hub" and not HUB_ID.fullmatch(name):
        raise UserError(
            f"model.name: found {name!r}, which is no folder here; wanted one of\n"
            f"  {EMBEDDED_MODEL}                  the embedded model\n"
            "  openai-community/gpt2-medium  a hub id, with model.revision\n"
            "  path/to/folder                a local folder with safetensors and a fast tokenizer"
        )
    if origin != "hub" and revision is not None:
        raise UserError(
            f"model.revision: found {revision!r} for {name!r}; wanted null, because only a model "
            "of the hub has revisions."
        )
    if origin == "hub":
        meant = f"\nIf {name} is meant to be a local folder: there is none of that name here."
        checked_commit(revision, name, "model", meant)
    return origin


def from_hub(name: str, revision: str, folder: Path) -> None:
    """Download the files of hub repository ``name`` at the commit ``revision`` into ``folder``.

    Raises:
        UserError: the repository, the commit or the network is not there, access is restricted, or
            a weight file's SHA-256 is not the one that the hub announces.
    """
    repository = Repository(
        kind="model",
        name=name,
        revision=revision,
        key="model",
        instead="set model.name to a local folder",
    )
    repository.download(MODEL_FILES, folder)


def from_folder(source: Path, folder: Path) -> None:
    """Copy the model files of a local folder; everything else in it is left behind.

    Raises:
        UserError: a file is a link that leads out of the folder, or of the cache of the hub that
            the folder is in: nobody knows whose file would go into DVC's cache and to its remotes.
    """
    inside = source.resolve()
    if inside.parent.name == "snapshots":  # its files are links to blobs/, a level up
        inside = inside.parents[1]
    named = [
        p for p in sorted(source.iterdir()) if any(fnmatch(p.name, one) for one in MODEL_FILES)
    ]
    files = [path for path in named if path.is_file()]
    for path in files:
        if not path.resolve().is_relative_to(inside):
            raise UserError(
                f"model.name: {path} is a link that leads out of the folder, to "
                f"{path.resolve()}. If that is the file you mean, put a copy of it there "
                "(cp -L makes one) and run again."
            )
    num_bytes = sum(path.stat().st_size for path in files)
    with disk_errors(folder, num_bytes), growing(f"fetch: {source.name}", folder, num_bytes):
        for path in files:
            shutil.copyfile(path, folder / path.name)


def from_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors; its tokenizer comes with it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Its progress bar is a plain tqdm, which none of transformers' switches reach.
    shown = waiting(f"fetch: {gguf.stem} in float32")
    with shown, redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype="float32"
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # The weights are plain float32 now; with these two set, save_pretrained refuses.
        del model.config.quantization_config
        del model.hf_quantizer
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600.
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer_config.pop(how_it_was_loaded, None)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
