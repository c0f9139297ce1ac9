"""Stage 1, beside fetch: the embedded corpus, where ``data.path`` reads it, and else an empty file.

It is apart from fetch, so that other data fetches no model anew. DVC wants an output in any case.
"""

from __future__ import annotations

import argparse
import shutil
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tuning.embedded import CHITCHAT, extract_file
from tuning.run.files import new_file
from tuning.run.inputs import Inputs
from tuning.run.params import load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.run.visible import visible


def main() -> None:
    """Fetch the corpus, if it is going to be read."""
    parser = argparse.ArgumentParser(prog="python -m stages.corpus", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="file to write")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    started, corpus = time.monotonic(), args.corpus
    params = load_params()
    path = Path(params.data.path)
    inputs = Inputs([], partial(declared_params, "corpus"))

    with TemporaryDirectory() as temporary:
        if is_read := corpus.resolve().is_relative_to(path.resolve()):
            source = extract_file(CHITCHAT, Path(temporary))
        else:
            source = Path(temporary) / corpus.name
            source.touch()
        num_bytes = source.stat().st_size
        with new_file(corpus, num_bytes) as partial_file:
            shutil.copyfile(source, partial_file)
    inputs.check_unchanged()
    record_timing(args.timing, "corpus", {"seconds": time.monotonic() - started})
    what = f"{CHITCHAT.package} {CHITCHAT.version}"
    size = f"{num_bytes / 1e6:,.1f} MB" if is_read else f"not fetched, for data.path is {path}"
    print(visible(f"corpus: {what}, {size}"))


if __name__ == "__main__":
    run_stage("corpus", main)
