"""What a run was made from: a fingerprint at its start, and a check that it still holds at the end.

DVC hashes dependencies after the command, so an edit of params.yaml during an hour of training
would be recorded with the weights of the old value (treeverse/dvc#11058). A stage therefore refuses
to publish when anything it was made from has changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tuning.run.errors import UserError
from tuning.run.files import sha256_of
from tuning.run.pipeline import CODE, ROOT, declared_params


class Inputs:
    """Hashes of files, of declared parameters, and of the project's modules that are loaded."""

    def __init__(self, paths: Sequence[Path], stage: str) -> None:
        """Take the hashes now.

        Args:
            paths: Files, and folders with all files below them.
            stage: Whose declared parameters count, read afresh each time.
        """
        self._paths = [*paths, *_loaded_modules()]
        self._stage = stage
        self._hashes = self._take()

    @property
    def fingerprint(self) -> str:
        """64 hex digits; equal where a run would give equal results."""
        return hashlib.sha256(json.dumps(self._hashes, sort_keys=True).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Raise ``UserError`` naming what was edited while the stage ran."""
        now = self._take()
        names = sorted(self._hashes.keys() | now.keys())
        changed = [name for name in names if self._hashes.get(name) != now.get(name)]
        if changed:
            raise UserError(
                f"changed while this stage ran: {', '.join(changed)}. Nothing was published, since "
                "the result would be recorded under the new values. Run dvc repro again (with the "
                "old values restored it continues from its last checkpoint)."
            )

    def _take(self) -> dict[str, str]:
        hashes = {}
        for path in self._paths:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if not file.is_dir():
                    name = _name(file)
                    hashes[name] = sha256_of(file) if file.exists() else "missing"
        for name, value in declared_params(self._stage).items():
            hashes[f"parameter {name}"] = json.dumps(value, sort_keys=True)
        return hashes


def _name(file: Path) -> str:
    """Relative to the project, so that a fingerprint is the same in every clone of it."""
    absolute = file.absolute()
    return str(absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else file)


def _loaded_modules() -> list[Path]:
    return sorted(
        Path(file)
        for name, module in sys.modules.items()
        if name == "__main__" or name.split(".")[0] in CODE
        if (file := getattr(module, "__file__", None))
        if any(Path(file).is_relative_to(ROOT / folder) for folder in CODE)
    )
