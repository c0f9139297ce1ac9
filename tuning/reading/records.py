"""Raw records with their places, how large they may be, and where a file breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.run.errors import UserError

PIECE_BYTES = 2**20
"""A piece ends at the first record that reaches this size."""
MAX_RECORD_BYTES = 2**28
"""A record over a quarter of a gigabyte is a file that is not what its reader believes."""
MAX_PARTS = 2**23
"""Values of JSON, or cells: so many take up to two gigabytes of memory, however short they are."""
PIECE_RECORDS = 2**14
"""A piece ends at so many records, too, for a short one takes a thousand times its size."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record's bytes or text, as it stands in the file or as JSON of a table's row."""

    where: str
    """``file:line`` in JSONL; ``file, record N`` in JSON and ``file, row N`` in a table, from 1. In
    CSV the header is row 1, as in a spreadsheet."""
    key: str
    """The dialogue's id if the record has none of its own."""
    text: str | bytes
    """JSON, or what stands in its place."""
    file: str = ""
    """The file's name relative to ``data.path``; empty where that names this one file."""
    fault: str = ""
    """What keeps a table's row from being a record; ``text`` is ``null`` then."""
    is_log: bool = False
    """Whether it is all messages of a file, of which none names its conversation."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Records that were put together from several of a file's."""

    raw: list[RawRecord]

    def records(self) -> Iterator[RawRecord]:
        """Every one."""
        yield from self.raw


@dataclass(frozen=True, slots=True)
class Break:
    """The place from which on a file cannot be read."""

    path: Path
    byte: int
    """Of the file's text, after decompression: where the first record begins that is not whole."""
    why: str
    num_bytes: int
    """Bytes that are not read: of the text, and of the file where it cannot be decompressed."""


class BrokenError(UserError):
    """A file that cannot be read to its end."""


def own_key(name: str, key: str) -> str:
    """The id of a record without one; where there are several files, it begins with the file's."""
    return f"{name}:{key}" if name else key


def broken(error: BrokenError, num_records: int) -> UserError:
    """The error that stops the run, with the way to keep what stands before the break."""
    if not num_records:
        return UserError(str(error))
    records = "record" if num_records == 1 else f"{num_records:,} records"
    return UserError(f"{error} data.on_invalid: skip keeps the {records} before it.")


def check_record_size(num_bytes: int, where: str, num_parts: int = 0) -> None:
    """Raise ``UserError`` for a record that is too large, or has too many parts, to be one."""
    for number, most, what in (
        (num_bytes, MAX_RECORD_BYTES, "bytes"),
        (num_parts, MAX_PARTS, "values"),
    ):
        if number > most:
            raise UserError(
                f"{where}: a record of more than {most:,} {what}; wanted one dialogue per record. "
                "Cut it into several."
            )


def num_values(text: str, start: int = 0) -> int:
    """Count the values of JSON from a place on, or what looks so within texts; of a short one 0."""
    return sum(text.count(mark, start) for mark in "[{,") if len(text) > MAX_PARTS else 0
