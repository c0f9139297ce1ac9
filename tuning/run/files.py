"""Files appear whole or not at all, and hold the same bytes for the same content."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuning.run.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk without space, a quota used up, a limit on the size of files."""


_FREE_SPACE = (
    "Free some space there (docs/troubleshooting.md says what may go) and run the same command "
    "again."
)


class DiskFullError(OSError):
    """A disk takes no more; the text says how much it was to take and how much is free."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends under a temporary name, then rename it into place."""
    content = text.encode()
    with new_file(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys. NaN and infinity raise ``ValueError``: they are not JSON."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; floats are written in full (``repr``), so reading them back is exact."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def flattened(section: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Flatten nested sections, such as parameters or metrics: keys are joined by a separator."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            inner = flattened(value, separator)
            found |= {f"{key}{separator}{name}": one for name, one in inner.items()}
        else:
            found[key] = value
    return found


@contextmanager
def new_file(path: Path, num_bytes: int | None = None) -> Iterator[Path]:
    """A name beside ``path`` for a file that takes its place when the block ends without error.

    ``num_bytes`` is what the file will need, where that is known: a full disk is told so.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with disk_errors(temporary, num_bytes):
            yield temporary
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path, num_bytes: int | None = None) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without error.

    All of it is on the disk before what it replaces goes. ``num_bytes`` is as for ``new_file``.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.exists():  # left by a process that was killed
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        with disk_errors(temporary, num_bytes):
            yield temporary
            for below in temporary.rglob("*"):
                sync(below)
            sync(temporary)
            sync(path.parent)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, that stays there after a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(place: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Raise as ``OSError`` what libraries make of a disk that takes no more or is read-only.

    Args:
        place: What is written: a file, or a folder that is filled.
        num_bytes: The bytes that it needs, where that is known.

    Raises:
        DiskFullError: a disk is full, or a quota used up.
    """
    try:
        yield
    except (UserError, DiskFullError):
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is not None and failure.errno in _FULL:
            raise disk_full(failure, place, num_bytes) from None
        if failure is None or failure is error:
            raise
        raise OSError(failure.errno, failure.strerror, str(place)) from None


def disk_full(failure: OSError, place: Path, num_bytes: int | None = None) -> DiskFullError:
    """Say how much a full disk was to take; the place is another one where the failure names it."""
    named = Path(failure.filename2 or failure.filename or place)
    if not named.is_relative_to(place):
        place, num_bytes = named, None
    there = next((path for path in (place, *place.absolute().parents) if path.exists()), Path())
    needed = f"more than {_num_bytes_of(place):,}" if num_bytes is None else f"{num_bytes:,}"
    free = f"{shutil.disk_usage(there).free:,}"
    what = f"{failure.strerror}: {needed} bytes needed, {free} free"
    return DiskFullError(failure.errno, what, str(place))


def told(error: OSError) -> str:
    """Say of a failure of the system what it is and where; of a full disk, what to do, too."""
    is_full = error.errno in _FULL
    if is_full and error.filename and not isinstance(error, DiskFullError):
        error = disk_full(error, Path(error.filename))
    what = f"{error.strerror or error}"
    if error.filename:
        what += f" ({error.filename})"
    elif is_full:
        places = (Path.cwd(), os.environ.get("TMPDIR", "/tmp"))
        free = [f"{shutil.disk_usage(place).free:,} bytes free in {place}" for place in places]
        what += f": {', '.join(free)}"
    return f"{what}. {_FREE_SPACE}" if is_full else what


def failure_of(error: Exception) -> OSError | None:
    """The failure of the system that an exception is, or tells of."""
    is_told = isinstance(error, OSError) and error.errno is not None
    return error if is_told else failure_in(str(error))  # type: ignore[return-value]


def failure_in(text: str) -> OSError | None:
    """The failure of the system that a message of Rust's libraries, numpy or a program tells of."""
    full = "|".join(map(str, _FULL))
    found = re.search(
        rf"\(os error (\d+)\)|\[Errno ({full})\]|\d requested and \d+ written"
        "|No space left on device",
        text,
    )
    if found is None:
        return None
    number = int(found[1] or found[2] or errno.ENOSPC)
    return OSError(number, os.strerror(number))


def _num_bytes_of(path: Path) -> int:
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)


def raise_if_no_file(path: Path) -> None:
    """Raise ``UserError`` for what has no end, or none yet: a pipe, a socket, a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(
            f"{path}: wanted a file to read, found a pipe, a socket or a device; move it elsewhere."
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    raise_if_no_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(model: Path) -> str:
    """One SHA-256 over a model folder's safetensors files, by name."""
    hashes = [f"{file.name} {sha256_of(file)}" for file in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
