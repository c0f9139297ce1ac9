"""What a disk holds after a power cut: only what a process has waited for with ``fsync``.

``python -m tests.power_cut FOLDER LOG MODULE …`` runs a module as ``python -m`` does, and notes at
each moment at which something is deleted or replaced what FOLDER would hold if the power were cut
right then. This is the worst that a disk may do: what is deleted is gone at once; a file has the
bytes of its last ``fsync``, and a folder the names of its own last one. A new name counts from the
moment that it is given, too: it may be on the disk before the bytes that it stands for.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuning.run.files import sha256_of

Held = dict[str, str]
"""SHA-256 of each file by its path in the folder; of one without its bytes, an empty text."""


class Disk:
    """A folder as it is after a power cut, by the numbers of its files and folders."""

    def __init__(self, root: Path, log: Path) -> None:
        """All that is there now is safe."""
        self.root = root
        self._log = log
        self._bytes: dict[int, str] = {}
        self._names: dict[int, dict[str, int]] = {}
        for path in (root, *root.rglob("*")):
            self.keep(path)

    def keep(self, path: Path) -> None:
        """Take a file's bytes, or a folder's names, as they are."""
        number = path.stat().st_ino
        self._bytes.pop(number, None)  # it may have been another's
        self._names.pop(number, None)
        if path.is_dir():
            self._names[number] = {one.name: one.inode() for one in os.scandir(path)}
        else:
            self._bytes[number] = sha256_of(path)

    def lose(self, path: Path) -> None:
        """A file, or a folder with all below it, is deleted."""
        if path.is_relative_to(self.root):
            self._names.get(path.parent.stat().st_ino, {}).pop(path.name, None)
            for one in (path, *path.rglob("*")):
                self._bytes.pop(one.lstat().st_ino, None)
                self._names.pop(one.lstat().st_ino, None)
            self.note()

    def rename(self, source: Path, target: Path) -> None:
        """A name passes to another file or folder, at once or when its folder is waited for."""
        if target.is_relative_to(self.root):
            names = self._names.get(target.parent.stat().st_ino, {})
            before = dict(names)
            names[target.name] = source.stat().st_ino
            names.pop(source.name, None)
            self.note()
            names.clear()
            names |= before

    def note(self) -> None:
        """Add what is there to the log."""
        held: Held = dict(self._below(self.root.stat().st_ino, ""))
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(held)}\n")

    def _below(self, number: int, place: str) -> Iterator[tuple[str, str]]:
        for name, below in self._names.get(number, {}).items():
            path = f"{place}{name}"
            if below in self._names:
                yield from self._below(below, f"{path}/")
            else:
                yield path, self._bytes.get(below, "")


def watch(disk: Disk) -> None:
    """Tell the disk from now on what this process waits for, renames and deletes."""
    own = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink")}
    own["rmtree"] = shutil.rmtree

    def fsync(descriptor: int) -> None:
        own["fsync"](descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(disk.root):
            disk.keep(path)

    def deleting(name: str) -> Callable[..., None]:
        def delete(path: Any, *arguments: Any, **options: Any) -> None:
            if "dir_fd" not in options and os.path.lexists(path):  # else a part of what rmtree does
                disk.lose(Path(path).absolute())
            own[name](path, *arguments, **options)

        return delete

    def renaming(name: str) -> Callable[..., None]:
        def rename(source: Any, target: Any) -> None:
            disk.rename(Path(source).absolute(), Path(target).absolute())
            own[name](source, target)

        return rename

    os.fsync = fsync  # type: ignore[assignment]
    os.unlink = os.remove = deleting("unlink")
    shutil.rmtree = deleting("rmtree")  # type: ignore[assignment]
    os.rename, os.replace = renaming("rename"), renaming("replace")


def main() -> None:
    """Run the module, and note what is left when it has ended."""
    folder, log, module, *arguments = sys.argv[1:]
    disk = Disk(Path(folder).resolve(), Path(log))
    watch(disk)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        disk.note()


if __name__ == "__main__":
    main()
