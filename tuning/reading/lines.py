"""JSONL -> pieces of whole lines: byte ranges of a plain file, or the lines of a compressed one."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.reading import records
from tuning.reading.compression import open_plain
from tuning.reading.records import (
    Break,
    BrokenError,
    RawRecord,
    broken,
    check_record_size,
    own_key,
)
from tuning.run.errors import UserError


@dataclass(frozen=True, slots=True)
class LineRange:
    """Lines of a plain JSONL file, still on disk."""

    path: Path
    name: str
    """The file's, where there are several files; else empty."""
    start: int
    """First byte."""
    stop: int
    """One past the last byte."""
    first_line: int
    """Number of the first line, from 1."""

    def records(self) -> Iterator[RawRecord]:
        """Every line that holds something."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            lines = file.read(self.stop - self.start).split(b"\n")
        yield from _line_records(self.path, self.name, self.first_line, lines)


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a JSONL file that is compressed, or not in UTF-8."""

    path: Path
    name: str
    first_line: int
    lines: list[bytes]

    def records(self) -> Iterator[RawRecord]:
        """Every line that holds something."""
        yield from _line_records(self.path, self.name, self.first_line, self.lines)


def _line_records(
    path: Path, name: str, first_line: int, lines: list[bytes]
) -> Iterator[RawRecord]:
    for number, line in enumerate(lines, start=first_line):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield RawRecord(f"{path}:{number}", own_key(name, f"line-{number}"), line, name)


def line_ranges(path: Path, name: str, on_read: Callable[[int], None]) -> Iterator[LineRange]:
    """Ranges that end at a line's end; the file is scanned for those, and nothing is kept."""
    start = position = 0
    first_line = line = 1
    with path.open("rb") as file:
        while block := file.read(records.PIECE_BYTES):
            on_read(len(block))
            end = block.rfind(b"\n") + 1
            if end:
                stop = position + end
                line += block.count(b"\n")
                yield LineRange(path, name, start, stop, first_line)
                start, first_line = stop, line
            position += len(block)
            check_record_size(position - start, f"{path}:{line}")
    if not position:
        raise UserError(f"{path} is empty.")
    if position > start:
        yield LineRange(path, name, start, position, first_line)


def read_lines(
    path: Path,
    name: str,
    on_break: Callable[[Break], None] | None,
    on_read: Callable[[int], None],
) -> Iterator[Lines]:
    """The lines of a file that is not plain; of a damaged one, those that are whole."""
    first_line = 1
    num_bytes = 0
    rest = b""
    with open_plain(path) as file:
        while block := file.read(max(records.PIECE_BYTES, len(rest))):
            on_read(file.num_new())
            num_bytes += len(block)
            *lines, rest = (rest + block).split(b"\n")
            check_record_size(len(rest), f"{path}:{first_line + len(lines)}")
            if lines:
                yield Lines(path, name, first_line, lines)
                first_line += len(lines)
        if file.damage:
            error = BrokenError(file.damage)
            if on_break is None or first_line == 1:
                raise broken(error, first_line - 1)
            num_left = len(rest) + file.num_left()
            on_break(Break(path, num_bytes - len(rest), str(error), num_left))
            return
    if not rest and first_line == 1:
        raise UserError(f"{path} is empty.")
    yield Lines(path, name, first_line, [rest])
