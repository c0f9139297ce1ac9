"""Where a killed run continues from.

Checkpoints lie outside DVC's outputs, which DVC deletes before a run, at
``$DVC_ROOT/<folder>/<fingerprint>/checkpoint-<step>/``. The fingerprint covers everything that can
change the weights, so a checkpoint is never continued under another configuration. A checkpoint
counts only once it holds the file COMPLETE, which is written after all else is on disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from stages.errors import UserError

COMPLETE = "COMPLETE"
NUM_UNFINISHED_RUNS_KEPT = 2


class CheckpointFolder:
    """One run's checkpoints, held by one process at a time."""

    def __init__(self, parent: Path, fingerprint: str) -> None:
        """Lock the run's folder and remove what an earlier process left incomplete.

        Raises:
            UserError: another process trains the same configuration now.
        """
        root = Path(os.environ.get("DVC_ROOT", ".")) / parent
        self.path = root / fingerprint[:16]
        self.path.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(self.path)
        if lock is None:
            raise UserError(
                f"another process is training this configuration (it holds {self.path}/lock); "
                "wait for it or stop it."
            )
        self._lock = lock
        os.utime(self.path)
        for folder in self._folders():
            if not (folder / COMPLETE).exists():
                shutil.rmtree(folder)

    def __enter__(self) -> Self:
        """The folder, locked."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let another process have it."""
        self._lock.close()

    def newest(self) -> Path | None:
        """The complete checkpoint with the highest step."""
        complete = [folder for folder in self._folders() if (folder / COMPLETE).exists()]
        return max(complete, key=_step, default=None)

    def complete(self, step: int) -> None:
        """Declare the checkpoint of this step whole, once all its bytes are on disk."""
        folder = self.path / f"checkpoint-{step}"
        for file in folder.iterdir():
            _sync(file)
        (folder / COMPLETE).touch()
        _sync(folder / COMPLETE)
        _sync(folder)

    def finish(self) -> None:
        """Remove this run's checkpoints: it is published, and ``dvc repro --force`` trains anew.

        Of other runs, all unfinished, keep the newest few and those that are in use.
        """
        shutil.rmtree(self.path)
        with suppress(FileNotFoundError):  # another run, finishing too, may be removing them
            runs = [path for path in self.path.parent.iterdir() if path.is_dir()]
            runs.sort(key=lambda run: run.stat().st_mtime)
            for run in runs[:-NUM_UNFINISHED_RUNS_KEPT]:
                lock = _try_lock(run)
                if lock is not None:
                    shutil.rmtree(run)
                    lock.close()

    def _folders(self) -> list[Path]:
        return [path for path in self.path.glob("checkpoint-*") if path.is_dir()]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _try_lock(run: Path) -> IO[str] | None:
    file = (run / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
