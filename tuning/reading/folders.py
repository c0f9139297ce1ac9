"""A path -> the data files that it means, and what lies beside them and is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tuning.data_names import WANTED, is_data, suffix_of
from tuning.reading.chat_text import is_chat_text
from tuning.reading.compression import open_plain
from tuning.run.errors import UserError

_LOOK_BYTES = 2**10


class Found(NamedTuple):
    """What a path means."""

    files: list[Path]
    """To be read, sorted by name."""
    passed_over: list[str]
    """Other files below the folder, by their names in it; hidden ones are not named."""


def data_files(path: Path) -> Found:
    """The file itself, or the data files below a folder, known by their names.

    Raises:
        UserError: there is no data, or something that cannot be read as a file.
    """
    if not path.exists():
        found = "is a symbolic link that leads nowhere" if path.is_symlink() else "not found"
        raise UserError(f"{path} {found}; data.path names a file of dialogues or a folder of them.")
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder; data.path names one of them.")
        return Found([path], [])
    # A link to a folder is no folder here: rglob does not look into it.
    files = [f for f in sorted(path.rglob("*")) if f.is_symlink() or not f.is_dir()]
    visible = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    data = [f for f in visible if _is_data(f)]
    strange = [f for f in files if not f.is_file()]  # a hidden pipe too would hang who hashes it
    strange += [f for f in data if f not in strange and not _is_utf8(str(f))]
    if strange:
        raise UserError(
            f"{path}: {_listed([str(file) for file in strange])}: not a file to read; wanted files "
            "(no pipe, no link to a folder) with a UTF-8 name. Move it elsewhere."
        )
    known = set(data)
    others = [str(f.relative_to(path)) for f in visible if f not in known]
    if not data:
        there = f": {_listed(others)}" if others else ""
        raise UserError(f"{path} is a folder with no data file in it{there}; {WANTED}.")
    return Found(data, others)


def _is_data(path: Path) -> bool:
    """Tell by a file's name whether it holds data; of a text, by how it begins."""
    if suffix_of(path) == ".txt" and path.is_file():
        with open_plain(path) as file:
            return is_chat_text(file.read(_LOOK_BYTES).decode(errors="replace"))
    return is_data(path)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    """Names the first three, and counts the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]).encode(errors="replace").decode() + more
