"""The inputs of a run: fingerprinted at its start, checked to be the same at its end.

DVC hashes dependencies after the command, so an edit of params.yaml during an hour of training
would be recorded with the weights of the old value (treeverse/dvc#11058). A stage therefore refuses
to publish when anything it was made from has changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuning.progress import waiting
from tuning.run.errors import UserError
from tuning.run.files import sha256_of
from tuning.run.pipeline import CODE, ROOT


class Inputs:
    """Hashes of files, of declared parameters, and of the project's code that is loaded."""

    def __init__(self, paths: Sequence[Path], params: Callable[[], Mapping[str, Any]]) -> None:
        """Take the hashes now.

        Args:
            paths: Files, and folders with all files below them.
            params: Reads the declared parameters afresh from disk.
        """
        self._paths = [*paths, *_loaded_code()]
        self._params = params
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}
        with waiting("hashing the inputs"):
            self._hashes = self._take()

    @property
    def fingerprint(self) -> str:
        """A hash of all inputs, 64 hex digits: equal where a run would give equal results."""
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

    def _hash(self, file: Path) -> str:
        """Return a file's hash: the known one if it is the same file, unwritten since, as DVC does.

        Gigabytes of weights are read once.
        """
        if not file.exists():
            return "missing"
        there = file.stat()
        state = (there.st_ino, there.st_size, there.st_mtime_ns)
        if self._known.get(file, ((), ""))[0] != state:
            self._known[file] = (state, sha256_of(file))
        return self._known[file][1]

    def _take(self) -> dict[str, str]:
        hashes = {}
        for path in self._paths:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if not file.is_dir():
                    hashes[_name(file)] = self._hash(file)
        for name, value in self._params().items():
            hashes[f"parameter {name}"] = json.dumps(value, sort_keys=True)
        return hashes


def _name(file: Path) -> str:
    """The path relative to the project, so that a fingerprint is the same in every clone of it."""
    absolute = file.absolute()
    return str(absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else file)


def _loaded_code() -> list[Path]:
    """Return the project's loaded modules, and the templates in the folders of any of them."""
    modules = {
        Path(file)
        for name, module in sys.modules.items()
        if name == "__main__" or name.split(".")[0] in CODE
        if (file := getattr(module, "__file__", None))
        if any(Path(file).is_relative_to(ROOT / folder) for folder in CODE)
    }
    folders = {module.parent for module in modules}
    return sorted(modules.union(*(folder.glob("*.jinja") for folder in folders)))
