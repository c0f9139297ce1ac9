"""A JSON document of any size -> its records, cut out one by one.

A list's elements are records. An object is one of four:

``record``   one dialogue; other such objects may follow it in the file
``table``    dialogues by id: every value is a record
``wrapper``  lists or tables of records under keys; what stands beside them is passed over by name
``unclear``  nothing in it is known as a record: every value is one, and has its fault

Which one is decided by looking ahead as far as the first record in it, and by ``IsRecord``: what a
dialogue looks like is not known in this room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuning.reading import records
from tuning.reading.compression import open_plain
from tuning.reading.json_text import JsonText
from tuning.reading.records import Break, BrokenError, RawRecord, broken, own_key
from tuning.run.errors import UserError

IsRecord = Callable[[Any], bool]
"""Tells of a decoded value whether it is one dialogue: not one of its messages, not many. It is
also asked about the part of an object that has been read, in which lists end at their first item.
Numbers may be text."""
LOOK_CHARACTERS = 2**24
"""An object that does not show what it is within these is unclear."""
LOOK_KEYS = 64
"""With more keys, an object is asked what it is whenever their number has doubled: each time the
answer takes as long as it has keys."""
LOOK_LEVELS = 4
"""Objects within one another that are looked into."""

_Shape = Literal["record", "table", "wrapper", "unclear"]
_Entry = tuple[str | None, str]
"""Key, if it has one, and text."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Records of a JSON document."""

    path: Path
    name: str
    """The file's, where there are several files; else empty."""
    first_number: int
    entries: list[_Entry]

    def records(self) -> Iterator[RawRecord]:
        """Every element."""
        for number, (key, text) in enumerate(self.entries, start=self.first_number):
            key = f"record-{number}" if key is None else key
            where = f"{self.path}, record {number}"
            yield RawRecord(where, own_key(self.name, key), text, self.name)


def read_documents(
    path: Path,
    name: str,
    *,
    is_sequence: bool,
    is_record: IsRecord | None,
    on_break: Callable[[Break], None] | None,
    on_beside: Callable[[str], None],
    on_read: Callable[[int], None],
) -> Iterator[Elements]:
    """The records of a JSON document.

    Args:
        path: The file.
        name: Its name, where there are several files.
        is_sequence: It holds objects one after another, each of them a record.
        is_record: Without it, every object is a table.
        on_break: Takes the place from which on the file cannot be read, if records stand before.
        on_beside: Takes the key of what a wrapper holds beside its records.
        on_read: Takes how many more bytes of the file were read, before each piece.
    """
    num_records = num_characters = 0
    entries: list[_Entry] = []
    with open_plain(path) as file:
        text = JsonText(path, file)
        try:
            for entry in _entries(text, path, is_sequence, is_record, on_beside):
                entries.append(entry)
                num_records += 1
                num_characters += len(entry[1])
                is_full = num_characters >= records.PIECE_BYTES
                if is_full or len(entries) == records.PIECE_RECORDS:
                    on_read(file.num_new())
                    yield Elements(path, name, num_records - len(entries) + 1, entries)
                    entries, num_characters = [], 0
        except BrokenError as error:
            if on_break is None or not num_records:
                raise broken(error, num_records) from None
            on_break(Break(path, text.byte(), str(error), text.num_left()))
        if entries:
            yield Elements(path, name, num_records - len(entries) + 1, entries)


def _entries(
    text: JsonText,
    path: Path,
    is_sequence: bool,
    is_record: IsRecord | None,
    on_beside: Callable[[str], None],
) -> Iterator[_Entry]:
    bracket = text.peek()
    if not bracket:
        text.check_end()
        raise UserError(f"{path} is empty.")
    if bracket == "[":
        yield from _elements(text)
    elif bracket == "{":
        shape = "record" if is_sequence else _shape_ahead(text, is_record)
        if shape == "record":
            while text.peek() == "{":
                yield None, text.value()
        elif shape == "wrapper" and is_record:
            yield from _wrapped(text, "", is_record, on_beside)
        else:
            yield from _members(text)
    else:
        found = text.value()
        raise UserError(f"{path}: wanted a list or an object of dialogues, found {found[:40]}.")
    text.check_end()


def _elements(text: JsonText) -> Iterator[_Entry]:
    number = 0
    text.take("[")
    while text.has_item("]", number):
        yield None, text.value()
        number += 1
    text.take("]")


def _members(text: JsonText) -> Iterator[_Entry]:
    number = 0
    text.take("{")
    while text.has_item("}", number):
        yield text.key(), text.value()
        number += 1
    text.take("}")


def _wrapped(
    text: JsonText, above: str, is_record: IsRecord, on_beside: Callable[[str], None]
) -> Iterator[_Entry]:
    """The records of a wrapper: of every list that begins with one, of every object with some."""
    number = 0
    text.take("{")
    while text.has_item("}", number):
        number += 1
        key = text.key()
        place = f"{above}{key}"
        shape = _shape_ahead(text, is_record) if text.peek() == "{" else "unclear"
        if text.peek() == "[":
            yield from _list_in_wrapper(text, place, is_record, on_beside)
        elif shape == "record":
            yield key, text.value()
        elif shape == "table":
            yield from _members(text)
        elif shape == "wrapper":
            yield from _wrapped(text, f"{place}.", is_record, on_beside)
        else:
            text.value()
            on_beside(place)
    text.take("}")


def _list_in_wrapper(
    text: JsonText, place: str, is_record: IsRecord, on_beside: Callable[[str], None]
) -> Iterator[_Entry]:
    """Its elements if the first one is a record; else none."""
    number = 0
    holds_records = False
    text.take("[")
    while text.has_item("]", number):
        element = text.value()
        holds_records = holds_records or (not number and is_record(text.decoded(element)))
        number += 1
        if holds_records:
            yield None, element
    text.take("]")
    if not holds_records:
        on_beside(place)


def _shape_ahead(text: JsonText, is_record: IsRecord | None) -> _Shape:
    """What the next object is; the text stands before it as it did."""
    if is_record is None:
        return "unclear"
    text.mark()
    try:
        return _shape(text, is_record, LOOK_LEVELS)[0]
    except BrokenError:
        return "unclear"  # who reads it meets the same fault
    finally:
        text.rewind()


def _shape(text: JsonText, is_record: IsRecord, levels: int) -> tuple[_Shape, dict[str, Any]]:
    """What an object is, and what of it has been read: all of it, if that is unclear."""
    seen: dict[str, Any] = {}
    dialogue: dict[str, Any] = {}  # a list that may be the object's own, or that of an id
    number = 0
    text.take("{")
    while text.has_item("}", number):
        number += 1
        key = text.key()
        within: _Shape = "unclear"
        if text.peek() == "{" and levels > 1 and not is_record({key: {}}):
            within, seen[key] = _shape(text, is_record, levels - 1)
        else:
            seen[key] = _first_item(text) if text.peek() == "[" else text.decoded(text.value())
        if within != "unclear":
            return "table" if within == "record" else "wrapper", seen
        value = seen[key]
        if isinstance(value, list):
            if is_record(value) and not is_record({key: []}):
                if dialogue:
                    return "table", seen
                dialogue = {key: seen.pop(key)}
            elif value and is_record(value[0]) and not is_record(seen):
                return "wrapper", seen
        if (number <= LOOK_KEYS or number.bit_count() == 1) and is_record(seen):
            return "record", seen
        if isinstance(value, list):
            _skip_rest(text, len(value))
        if text.num_held() > LOOK_CHARACTERS:
            return "unclear", seen
    text.take("}")
    seen = dialogue | seen
    return "record" if is_record(seen) else "unclear", seen


def _skip_rest(text: JsonText, number: int) -> None:
    while text.has_item("]", number):
        text.value()
        number += 1
    text.take("]")


def _first_item(text: JsonText) -> list[Any]:
    """A list of the first item alone; the text stands behind it."""
    text.take("[")
    return [text.decoded(text.value())] if text.has_item("]", 0) else []
