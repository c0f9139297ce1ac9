"""Dialogue files of any size -> pieces of whole raw records, read in bounded memory.

One JSON or JSONL file, gzip or zstd of either, or a folder of such files (sorted by name). Nothing
is decoded here beyond where a record ends: the pieces are small, and each can be decoded and
checked by another process. Plain JSONL is handed out as byte ranges: a worker reads its own.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.reading.compression import SUFFIXES, compression_of, open_plain
from tuning.reading.json_text import JsonText
from tuning.run.errors import UserError

PIECE_BYTES = 2**20
"""A piece ends at the first record that reaches this size."""
MAX_RECORD_BYTES = 2**28
"""A record over a quarter of a gigabyte is a file that is not what its reader believes."""

_LINES = {".jsonl", ".ndjson"}
_DATA = {".json", *_LINES}


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record's bytes or text, as it stands in the file."""

    where: str
    """``file:line`` in JSONL, ``file, record N`` (from 1) in JSON."""
    key: str
    """The dialogue's id if the record has none of its own."""
    text: str | bytes


@dataclass(frozen=True, slots=True)
class LineRange:
    """Lines of a plain JSONL file, still on disk."""

    path: Path
    prefix: str
    """Begins the ids of records without one: the file's name where there are several files."""
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
        yield from _line_records(self.path, self.prefix, self.first_line, lines)


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a compressed JSONL file."""

    path: Path
    prefix: str
    first_line: int
    lines: list[bytes]

    def records(self) -> Iterator[RawRecord]:
        """Every line that holds something."""
        yield from _line_records(self.path, self.prefix, self.first_line, self.lines)


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of a JSON list or object."""

    path: Path
    prefix: str
    first_number: int
    keys: list[str] | None
    """The object's keys, one for each element; None for a list."""
    texts: list[str]

    def records(self) -> Iterator[RawRecord]:
        """Every element."""
        for index, text in enumerate(self.texts):
            number = self.first_number + index
            key = self.keys[index] if self.keys else f"record-{number}"
            yield RawRecord(f"{self.path}, record {number}", self.prefix + key, text)


Piece = LineRange | Lines | Elements


def data_files(path: Path) -> list[Path]:
    """The file itself, or the dialogue files below a folder, sorted by name.

    Raises:
        UserError: there is nothing there, or something in the folder is not a dialogue file.
    """
    if not path.exists():
        found = "is a symbolic link that leads nowhere" if path.is_symlink() else "not found"
        raise UserError(f"{path} {found}; data.path names a dialogue file or a folder of them.")
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder; data.path names one of them.")
        return [path]
    # A link to a folder is no folder here: rglob does not look into it.
    files = [f for f in sorted(path.rglob("*")) if f.is_symlink() or not f.is_dir()]
    visible = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    strange = [f for f in files if not f.is_file()]  # a hidden pipe too would hang who hashes it
    strange += [f for f in visible if f not in strange and not _is_named_as_data(f)]
    if strange:
        names = ", ".join(str(file).encode(errors="replace").decode() for file in strange[:3])
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise UserError(
            f"{path}: {names}{more}: not a dialogue file; wanted files (no pipe, no link to a "
            "folder) with a UTF-8 name that ends in .json, .jsonl or .ndjson, or in one of them "
            "and .gz or .zst. Move it elsewhere."
        )
    if not visible:
        raise UserError(f"{path} is a folder with no dialogue file in it.")
    return visible


def read_pieces(
    path: Path, prefix: str = "", record_keys: frozenset[str] = frozenset()
) -> Iterator[Piece]:
    """The records of one file, in its order, in pieces of about a megabyte.

    Args:
        path: The file.
        prefix: Begins the ids of records without one.
        record_keys: A JSON object with one of these keys is one record, not a table of them.

    Raises:
        UserError: the file is empty, damaged, compressed in another way, or is not JSON in a way
            that hides where its records end.
    """
    compression = compression_of(path)
    if _kind(path) in _LINES or _begins_with_lines(path):
        yield from _line_ranges(path, prefix) if not compression else _lines(path, prefix)
    else:
        yield from _elements(path, prefix, record_keys)


def _kind(path: Path) -> str:
    """The file's suffix without that of a compression: ``.jsonl`` of ``x.jsonl.gz``."""
    name = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return name.suffix.lower()


def _is_named_as_data(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return _kind(path) in _DATA


def _begins_with_lines(path: Path) -> bool:
    """Tell whether a file that is not named so is JSONL.

    It is if its first line is an object or a list by itself, and another one begins after it.
    """
    with open_plain(path) as file:
        line = b""
        while not line.strip():
            line = file.readline(PIECE_BYTES)
            if not line:
                return False
        rest = file.read(2**16).lstrip()
    try:
        first = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    begins = b"{" if isinstance(first, dict) else b"["
    return isinstance(first, dict | list) and line.endswith(b"\n") and rest.startswith(begins)


def _line_records(
    path: Path, prefix: str, first_line: int, lines: list[bytes]
) -> Iterator[RawRecord]:
    for number, line in enumerate(lines, start=first_line):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield RawRecord(f"{path}:{number}", f"{prefix}line-{number}", line)


def _line_ranges(path: Path, prefix: str) -> Iterator[LineRange]:
    """Ranges that end at a line's end; the file is scanned for those, and nothing is kept."""
    start = position = 0
    first_line = line = 1
    with path.open("rb") as file:
        while block := file.read(PIECE_BYTES):
            end = block.rfind(b"\n") + 1
            if end:
                stop = position + end
                line += block.count(b"\n")
                yield LineRange(path, prefix, start, stop, first_line)
                start, first_line = stop, line
            position += len(block)
            _check_record_size(position - start, f"{path}:{line}")
    if not position:
        raise UserError(f"{path} is empty.")
    if position > start:
        yield LineRange(path, prefix, start, position, first_line)


def _lines(path: Path, prefix: str) -> Iterator[Lines]:
    first_line = 1
    rest = b""
    with open_plain(path) as file:
        while block := file.read(max(PIECE_BYTES, len(rest))):
            *lines, rest = (rest + block).split(b"\n")
            _check_record_size(len(rest), f"{path}:{first_line + len(lines)}")
            if lines:
                yield Lines(path, prefix, first_line, lines)
                first_line += len(lines)
    if not rest and first_line == 1:
        raise UserError(f"{path} is empty.")
    yield Lines(path, prefix, first_line, [rest])


def _elements(path: Path, prefix: str, record_keys: frozenset[str]) -> Iterator[Elements]:
    """The elements of a JSON list, the values of an object, or the one record that the file is."""
    with open_plain(path) as file:
        text = JsonText(path, file, PIECE_BYTES, _check_record_size)
        if not text.peek():
            raise UserError(f"{path} is empty.")
        bracket = text.peek()
        if bracket not in "[{":
            found = text.value()
            raise UserError(f"{path}: wanted a list or an object of dialogues, found {found[:40]}.")
        text.take(bracket)
        end = "]" if bracket == "[" else "}"
        keys: list[str] = []
        texts: list[str] = []
        number = num_characters = 0
        is_record = False
        while text.peek() != end:
            if number:
                text.take(",", f"wanted ',' or {end!r}")
            if bracket == "{":
                if text.peek() != '"':
                    text.fail("wanted a key in double quotes")
                keys.append(json.loads(text.value()))
                is_record |= keys[-1] in record_keys and number == len(texts)
                num_characters += len(keys[-1])
                text.take(":")
            texts.append(text.value())
            number += 1
            num_characters += len(texts[-1])
            if is_record:
                _check_record_size(num_characters, str(path))
            elif num_characters >= PIECE_BYTES:
                yield Elements(path, prefix, number - len(texts) + 1, keys or None, texts)
                keys, texts, num_characters = [], [], 0
        text.take(end)
        if text.peek():
            text.fail("wanted the end of the file (if each line is a record, name it .jsonl)")
        if is_record:
            pairs = zip(map(json.dumps, keys), texts, strict=True)
            yield Elements(path, prefix, 1, None, [f"{{{','.join(map(':'.join, pairs))}}}"])
        elif texts:
            yield Elements(path, prefix, number - len(texts) + 1, keys or None, texts)


def _check_record_size(num_bytes: int, where: str) -> None:
    if num_bytes > MAX_RECORD_BYTES:
        raise UserError(
            f"{where}: a record of more than {MAX_RECORD_BYTES:,} bytes; is the file JSONL or JSON "
            "with one dialogue per record?"
        )
