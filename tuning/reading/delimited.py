"""CSV and TSV -> records: one JSON object per row, with the header's names as keys.

Python's own reader, not Arrow's: cells stay the text that they are (Arrow guesses types from the
first block), a cell may be longer than a block, and a faulty row is one record's fault with its
place (Arrow ends there).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.reading import records
from tuning.reading.compression import open_plain
from tuning.reading.records import Break, BrokenError, RawRecord, broken, own_key
from tuning.run.errors import UserError

MAX_NAME_CHARACTERS = 64
"""A longer cell of the first row is no column's name."""
MAX_HEADER_CHARACTERS = 2**20

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_SENTENCE = re.compile(r"\s.*[.?!]$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a CSV or TSV file."""

    path: Path
    name: str
    """The file's, where there are several files; else empty."""
    columns: list[str]
    rows: list[tuple[int, list[str] | str]]
    """Number, and cells or what keeps the row from having some."""

    def records(self) -> Iterator[RawRecord]:
        """Every row that holds something; an empty cell is null."""
        for number, cells in self.rows:
            where, key = f"{self.path}, row {number}", own_key(self.name, f"row-{number}")
            fault = cells if isinstance(cells, str) else self._fault_of(cells)
            if fault:
                yield RawRecord(where, key, "null", self.name, fault)
            else:
                values = (cell or None for cell in cells)
                row = dict(zip(self.columns, values, strict=True))
                yield RawRecord(where, key, json.dumps(row, ensure_ascii=False), self.name)

    def _fault_of(self, cells: list[str]) -> str:
        if len(cells) != len(self.columns):
            return (
                f"wanted {len(self.columns)} cells, as the header has, found {len(cells)}; a cell "
                "with a separator or a line end in it stands in double quotes"
            )
        if any(map(_NOT_UTF8.search, cells)):
            return "a cell is not UTF-8; save the file as UTF-8"
        return ""


def read_rows(
    path: Path,
    name: str,
    *,
    is_tsv: bool,
    on_break: Callable[[Break], None] | None,
    on_read: Callable[[int], None],
) -> Iterator[Rows]:
    """The rows behind the header, in pieces of about a megabyte.

    Raises:
        UserError: there is no header, or the compressed file is damaged.
    """
    with open_plain(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        lines = _Lines(text, path, is_tsv=is_tsv)
        rows = _rows(lines)
        columns = next(rows, (0, ""))[1]
        if not columns:
            raise UserError(file.damage or f"{path} is empty.")
        columns = _checked_header(path, columns)
        num_rows = num_characters = num_cut = 0
        piece: list[tuple[int, list[str] | str]] = []
        for number, cells in rows:
            is_full = num_characters >= records.PIECE_BYTES or len(piece) >= records.PIECE_RECORDS
            if is_full:  # the last row stays: it may be cut off
                on_read(file.num_new())
                yield Rows(path, name, columns, piece)
                piece, num_characters = [], 0
            piece.append((number, cells))
            num_rows += 1
            if file.damage:
                num_cut = len("".join(lines.of_row).encode(errors="surrogateescape"))
            num_characters += sum(map(len, cells))
        if file.damage:
            error = BrokenError(file.damage)
            if on_break is None or num_rows <= 1:
                raise broken(error, max(num_rows - 1, 0))
            piece.pop()
            num_left = num_cut + file.num_left()
            on_break(Break(path, file.num_bytes - num_cut, str(error), num_left))
        if piece:
            yield Rows(path, name, columns, piece)
        text.detach()  # its end would close the file


class _Lines:
    """The lines of a text as the reader of rows asks for them."""

    def __init__(self, text: io.TextIOWrapper, path: Path, *, is_tsv: bool) -> None:
        """Read the first one."""
        self._text = text
        self._path = path
        self.first = text.readline(MAX_HEADER_CHARACTERS)
        self.delimiter = "\t" if is_tsv else max(",;\t", key=self.first.count)
        self.of_row = [self.first]
        """Those of the row that was read last."""

    def __iter__(self) -> Iterator[str]:
        """Every line, the first one included."""
        yield self.first
        num_characters = num_parts = 0
        while line := self._text.readline(records.MAX_RECORD_BYTES + 1):
            if not self.of_row:
                num_characters = num_parts = 0
            num_characters += len(line)
            num_parts += 1 + line.count(self.delimiter)
            records.check_record_size(num_characters, str(self._path), num_parts)
            self.of_row.append(line)
            yield line


def _rows(lines: _Lines) -> Iterator[tuple[int, list[str] | str]]:
    """Number and cells of every row, blank ones left out; the first is the header."""
    csv.field_size_limit(records.MAX_RECORD_BYTES)
    reader = csv.reader(lines, delimiter=lines.delimiter, strict=True)
    number = 0
    while True:
        number += 1
        lines.of_row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"line {reader.line_num} is no row of a table: {error}"
            continue
        if cells:
            yield number, cells


def _checked_header(path: Path, header: list[str] | str) -> list[str]:
    """The columns' names; an empty first one is that of a row's number, as pandas writes it."""
    if isinstance(header, str):
        raise UserError(f"{path}, row 1: {header}.")
    wanted = "wanted the columns' names in its first row, such as prompt and response; add that row"
    names = [name.strip() for name in header]
    for name in names:
        if len(name) > MAX_NAME_CHARACTERS or "\n" in name or _SENTENCE.search(name):
            raise UserError(f"{path} has no header: row 1 begins with {name[:40]!r}; {wanted}.")
    for index, name in enumerate(names):
        if index and (not name or name in names[:index]):
            what = f"the name {name[:40]!r} twice" if name else f"no name for column {index + 1}"
            raise UserError(f"{path}: row 1 has {what}; {wanted}.")
    return names
