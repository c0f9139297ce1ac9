"""What a file is: decided by what it holds; its name decides where that leaves two readings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuning.data_names import COLUMNS, DELIMITED, LINES, suffix_of
from tuning.reading.chat_text import is_chat_text
from tuning.reading.compression import compression_of, encoding_of, open_plain
from tuning.reading.documents import IsRecord
from tuning.reading.foreign import refuse_foreign
from tuning.run.errors import UserError

LOOK_BYTES = 2**20

_Kind = Literal[
    "lines",
    "document",
    "sequence",
    "delimited",
    "chat text",
    "parquet",
    "arrow file",
    "arrow stream",
]
_MAGIC: dict[bytes, _Kind] = {
    b"PAR1": "parquet",
    b"ARROW1\0\0": "arrow file",
    b"\xff\xff\xff\xff": "arrow stream",
}
_SPACE = " \t\r\n"
_STAMPED = re.compile(r"\[\d[\d:.,/ -]*\] *[^\s,\]\[{]")
"""A line of a text log, which begins with a time in brackets, and not as a list of numbers does."""


@dataclass(frozen=True)
class Look:
    """What a file is."""

    kind: _Kind
    is_plain: bool
    """Its bytes on disk are UTF-8 and not compressed, as far as that can be told."""


def look_into(path: Path, is_record: IsRecord | None) -> Look:
    """Tell what a file is by its first megabyte.

    Raises:
        UserError: it is known, and is nothing with records in it.
    """
    compression = compression_of(path)
    with path.open("rb") as raw:
        is_plain = compression is None and encoding_of(raw.read(4)) is None
    with open_plain(path) as file:
        head = file.read(LOOK_BYTES)
        is_whole = not file.read(1) and not file.damage
    refuse_foreign(path, head[:512], compression)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            if compression:
                name = kind.split()[0].capitalize()
                raise UserError(
                    f"{path} is {name} inside {compression}. Decompress it: {name} compresses its "
                    "columns itself."
                )
            return Look(kind, is_plain)
    suffix = suffix_of(path)
    if suffix in COLUMNS and head:
        raise UserError(
            f"{path} is not what its name says: it begins with {head[:8]!r}, not as Parquet or "
            "Arrow do. Copy or export it again, or name it as what it is."
        )
    text = head.decode("utf-8-sig", errors="replace").lstrip(_SPACE)
    if is_record and is_chat_text(text):
        return Look("chat text", is_plain)
    if suffix in DELIMITED and not text.startswith(("{", "[")):
        return Look("delimited", is_plain)
    return Look(_kind_of_json(path, text, suffix in LINES, is_whole, is_record), is_plain)


def _kind_of_json(
    path: Path, text: str, is_named_lines: bool, is_whole: bool, is_record: IsRecord | None
) -> _Kind:
    if (is_named_lines and is_record is None) or not text:
        return "lines" if is_named_lines else "document"
    if text[0] not in "[{" or _STAMPED.match(text):
        if is_named_lines and re.search(r"^\s*[\[{]", text, re.MULTILINE):
            return "lines"
        _refuse_text(path, text)
    try:
        value, end = json.JSONDecoder(parse_int=str).raw_decode(text)
    except (ValueError, RecursionError):
        is_lines = is_named_lines and _is_broken_line(text, is_record)
        return "lines" if is_lines else "document"
    is_one_line = "\n" not in text[:end]
    rest = text[end:]
    follows = rest.lstrip(_SPACE)[:1]
    gap = rest[: rest.find(follows)] if follows else rest
    if isinstance(value, list) and value and is_record and is_record(value[0]):
        return "document"
    if follows == text[0]:
        if is_one_line and "\n" in gap:
            return "lines"
        return "sequence" if follows == "{" and is_record else "document"
    if not is_named_lines or not is_one_line:
        return "document"
    # One line that is JSON by itself, named as lines are.
    is_alone = not follows and is_whole
    return "document" if is_alone and is_record and _holds_records(value, is_record) else "lines"


def _is_broken_line(text: str, is_record: IsRecord | None) -> bool:
    """Tell of what is no JSON as it begins whether it is a line of JSONL rather than a document.

    Not if a list begins with a record, and not if the line lacks only what the next ones hold.
    """
    line, end_of_line, rest = text.partition("\n")
    if line.startswith("[") and is_record:
        try:
            first, _ = json.JSONDecoder(parse_int=str).raw_decode(text[1:].lstrip(_SPACE))
        except (ValueError, RecursionError):
            pass
        else:
            if is_record(first):
                return False
    if not end_of_line:
        return True
    line = line.rstrip(_SPACE)
    if line in "[{":
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        if error.pos < len(line) or error.msg.startswith("Unterminated"):
            return True
    except (ValueError, RecursionError):
        return True
    try:
        return isinstance(json.loads(rest.lstrip(_SPACE).partition("\n")[0]), dict | list)
    except (ValueError, RecursionError):
        return False


def _holds_records(value: Any, is_record: IsRecord) -> bool:
    """Tell whether a list or an object is none itself, and has records in it."""
    if isinstance(value, list):
        return bool(value) and is_record(value[0])
    return not is_record(value) and any(
        is_record(item) or (isinstance(item, list) and bool(item) and is_record(item[0]))
        for item in value.values()
    )


def _refuse_text(path: Path, text: str) -> None:
    """Raise ``UserError`` that says what a file is that is neither JSON nor anything known."""
    begins = text.partition("\n")[0].strip()[:40]
    try:
        _, end = json.JSONDecoder(parse_int=str).raw_decode(text)
    except ValueError:
        end = -1
    if end >= 0 and not text[end:].strip(_SPACE):
        raise UserError(f"{path}: wanted a list or an object of dialogues, found {begins}.")
    if text.startswith(("//", "/*", "#")) and re.search(r"^\s*[\[{]", text, re.MULTILINE):
        raise UserError(
            f"{path}: not JSON: it begins with a comment ({begins!r}), which JSON does not have. "
            "Take the comments out."
        )
    if re.search("[\0-\x08\x0e-\x1f\ufffd]", text[:64]):
        raise UserError(
            f"{path} is a binary file of an unknown kind, or damaged: it begins with {begins!r}. "
            "Wanted JSON, JSONL, CSV, TSV, Parquet or Arrow."
        )
    raise UserError(
        f"{path} is a text file that begins with {begins!r}; wanted JSON, JSONL, Parquet or Arrow, "
        "or a table named .csv or .tsv. Write each dialogue as a record, such as "
        '{"messages": [{"role": "user", "content": "…"}, …]}, one on a line.'
    )
