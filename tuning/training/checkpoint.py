"""Checkpoints, from which a killed run continues.

Checkpoints lie outside DVC's outputs, which DVC deletes before a run, at
``$DVC_ROOT/<folder>/<fingerprint>/checkpoint-<step>/``. The fingerprint covers everything that can
change the weights, so a checkpoint is never continued under another configuration. A checkpoint
has its name only once all its bytes are on disk, and counts only while they match the hashes in its
file COMPLETE. Safetensors and JSON: nothing in it is ever unpickled.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from tuning.run.errors import UserError
from tuning.run.files import disk_errors, make_folder, sha256_of, sync

COMPLETE = "COMPLETE"
TENSORS = "tensors.safetensors"
STATE = "state.json"
NUM_CHECKPOINTS_KEPT = 2
NUM_UNFINISHED_RUNS_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run as it stood after an optimizer step."""

    step: int
    tensors: dict[str, Tensor]
    """Tensors by name, on the CPU."""
    state: dict[str, Any]
    """Values that JSON can hold."""


class CheckpointFolder:
    """One run's checkpoints, held by one process at a time."""

    def __init__(self, parent: Path, fingerprint: str) -> None:
        """Lock the run's folder and remove what an earlier process left incomplete.

        Raises:
            UserError: another process trains the same configuration now.
        """
        root = Path(os.environ.get("DVC_ROOT", ".")) / parent
        self.path = root / fingerprint[:16]
        make_folder(self.path)
        lock = _try_lock(self.path)
        if lock is None:
            raise UserError(
                f"another process is training this configuration (it holds {self.path}/lock); "
                "wait for it or stop it."
            )
        self._lock = lock
        os.utime(self.path)
        for folder in [*self.path.glob("checkpoint-*"), *self.path.glob(".checkpoint-*")]:
            if not (folder / COMPLETE).exists() or folder.name.startswith("."):
                _remove(folder)

    def __enter__(self) -> Self:
        """The folder, locked."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock the folder."""
        self._lock.close()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        keep: Collection[int] = (),
    ) -> bool:
        """Write a checkpoint, then remove all others but the newest and those in ``keep``.

        Args:
            step: The optimizer step just taken.
            tensors: Contiguous, on the CPU, none sharing memory with another.
            state: Values that JSON can hold, without NaN and infinity.
            keep: Steps whose checkpoints must stay, besides the newest two.

        Returns:
            False where the disk did not take it, which is said on stderr: training can go on, and
            the checkpoints before it are as they were.
        """
        folder = self._folder(step)
        temporary = folder.with_name(f".{folder.name}.tmp")
        try:
            content = json.dumps(state, sort_keys=True, allow_nan=False)
            num_bytes = len(content) + sum(each.nbytes for each in tensors.values())
            with disk_errors(temporary, num_bytes):
                temporary.mkdir(exist_ok=True)
                save_file(dict(tensors), temporary / TENSORS)
                (temporary / STATE).write_text(content, encoding="utf-8")
                hashes = {name: sha256_of(temporary / name) for name in (STATE, TENSORS)}
                for name in hashes:
                    sync(temporary / name)
                (temporary / COMPLETE).write_text(json.dumps(hashes), encoding="utf-8")
                sync(temporary / COMPLETE)
                sync(temporary)
            if folder.exists():
                _remove(folder)
            temporary.rename(folder)
            sync(self.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            print(
                f"\ntrain: no checkpoint at step {step}: {error.strerror} ({self.path}). Training "
                "goes on and the checkpoints before it stay; free some space there.",
                file=sys.stderr,
            )
            return False
        for old in self._steps()[:-NUM_CHECKPOINTS_KEPT]:
            if old not in keep:
                _remove(self._folder(old))
        return True

    def newest(self) -> Checkpoint | None:
        """The checkpoint with the highest step among the undamaged; damaged ones are removed."""
        found = []
        newest = None
        for step in reversed(self._steps()):
            folder = self._folder(step)
            damage = _damage(folder)
            if damage is None:
                newest = _read(folder, step)
                break
            found.append(f"{folder.name} is damaged ({damage})")
            _remove(folder)
        if found:
            start = f"continuing from checkpoint-{newest.step}" if newest else "starting anew"
            print(f"train: {'; '.join(found)}: {start}", file=sys.stderr)
        return newest

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of this step.

        Raises:
            UserError: it is missing, or its bytes are not those that were written.
        """
        folder = self._folder(step)
        damage = _damage(folder)
        if damage:
            raise UserError(f"{folder} is damaged ({damage}); remove {self.path} and run again.")
        return _read(folder, step)

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

    def _folder(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def _steps(self) -> list[int]:
        """Steps that have a checkpoint, from the oldest to the newest."""
        names = [path.name.removeprefix("checkpoint-") for path in self.path.glob("checkpoint-*")]
        return sorted(int(name) for name in names if name.isdecimal())


def _read(folder: Path, step: int) -> Checkpoint:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return Checkpoint(step, load_file(folder / TENSORS), state)


def _damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint's bytes, if anything is."""
    try:
        hashes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        for name in (STATE, TENSORS):
            if sha256_of(folder / name) != hashes[name]:
                return f"{name}: checksum differs"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{COMPLETE}: not as it was written"
    return None


def _remove(folder: Path) -> None:
    """Remove a checkpoint, its COMPLETE first: what a kill leaves of it must not count."""
    with suppress(OSError):  # left in place it does no harm
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _try_lock(run: Path) -> IO[str] | None:
    file = (run / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
