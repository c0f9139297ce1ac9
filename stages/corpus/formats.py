"""A JSON or JSONL file in one of four layouts -> dialogues, and the records that are not one.

``chitchat``   {id: {"messages": [[{"text", "sender"}, …], …]}}; a block is one turn
``dialogues``  [{"turns": [{"speaker", "text"}]}]; or "dialogue", "utterances" for the list, and
               "utterance", "content" for the text
``messages``   [{"messages": [{"role", "content"}]}]
``sharegpt``   [{"conversations": [{"from", "value"}]}]

The last three are a JSON list, a JSON object that maps ids to them, or a JSONL file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.corpus.dialogue import Dialogue, Turn
from stages.errors import UserError

MAX_FAULTS_SHOWN = 20


@dataclass(frozen=True)
class Record:
    """One entry of the input file: a dialogue, or the fault that keeps it from being one."""

    where: str
    """``file:line`` for JSONL, ``file, record N`` (from 1) for JSON."""
    num_empty_messages: int
    """Messages with nothing but white space; left out of the dialogue."""
    dialogue: Dialogue | None
    fault: str | None


class _InvalidRecord(Exception):
    """What was found and what was wanted, within one record."""


class _RepeatedKey(Exception):
    """The key that stands twice in one JSON object."""


def read_records(path: Path, data_format: str = "auto") -> tuple[str, list[Record]]:
    """Read a whole file.

    Returns:
        The layout that was used, and one record per entry, in the file's order.

    Raises:
        UserError: the file cannot be read, is not JSON, is empty, or has no known layout.
    """
    entries = list(_entries(path))
    if not entries:
        raise UserError(f"{path} holds no dialogue.")
    if data_format == "auto":
        telling = (entry for _, _, entry in entries if _holds_something(entry))
        data_format = _recognise(path, next(telling, entries[0][2]))
    turns_of = _LAYOUTS[data_format]
    return data_format, [_record(where, key, entry, turns_of) for where, key, entry in entries]


def raise_for_faults(path: Path, records: list[Record]) -> None:
    """Raise ``UserError`` that lists the faults (up to 20, then a count), if there is one."""
    faults = [f"  {record.where}: {record.fault}" for record in records if record.fault]
    if not faults:
        return
    shown = "\n".join(faults[:MAX_FAULTS_SHOWN])
    more = len(faults) - MAX_FAULTS_SHOWN
    rest = f"\n  … and {more} more" if more > 0 else ""
    raise UserError(
        f"{path}: {len(faults)} of {len(records)} records are not dialogues:\n{shown}{rest}\n"
        "Mend them, or drop and count them with data.on_invalid: skip."
    )


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Each entry's place, its id and its JSON value."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} not found; data.path names the dialogue file.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; data.path names one JSON or JSONL file.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from None
    if not text.strip():
        raise UserError(f"{path} is empty.")
    if path.suffix in {".jsonl", ".ndjson"}:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, f"line-{number}", _parse(line, where, first_line=number)
        return
    content = _parse(text, str(path))
    if isinstance(content, dict):
        pairs = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        pairs = [(f"record-{number}", value) for number, value in enumerate(content, start=1)]
    else:
        found = type(content).__name__
        raise UserError(f"{path}: expected a list or an object of dialogues, found {found}.")
    for number, (key, value) in enumerate(pairs, start=1):
        yield f"{path}, record {number}", key, value


def _parse(text: str, where: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object_of)
    except _RepeatedKey as error:
        raise UserError(
            f"{where}: the key {str(error)!r} stands twice in one object, so that one of its "
            "values would be lost; rename or remove one."
        ) from None
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"{where}: not JSON: {error.msg} at line {line}, column {error.colno}."
        ) from None
    except RecursionError:
        raise UserError(f"{where}: not usable JSON: nested too deeply.") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{where}: not usable JSON: {error}.") from None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless it repeats a key: Python would keep the last value in silence."""
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return result


def _holds_something(entry: Any) -> bool:
    """Whether the entry tells how dialogues are laid out: an object with a list in use."""
    return isinstance(entry, dict) and any(isinstance(v, list) and v for v in entry.values())


def _recognise(path: Path, entry: Any) -> str:
    if isinstance(entry, dict):
        messages = entry.get("messages")
        if isinstance(messages, list) and messages and isinstance(messages[0], list):
            return "chitchat"
        if "messages" in entry:
            return "messages"
        if "conversations" in entry:
            return "sharegpt"
        if any(key in entry for key in _TURN_LISTS):
            return "dialogues"
    found = (
        f"keys {', '.join(map(repr, entry))}" if isinstance(entry, dict) else type(entry).__name__
    )
    raise UserError(
        f"{path}: the first record has no known layout ({found}); wanted one of the keys "
        "'messages', 'conversations', 'turns', 'dialogue', 'utterances'."
    )


def _record(
    where: str, key: str, entry: Any, turns_of: Callable[[Any], list[list[tuple[str, str]]]]
) -> Record:
    try:
        dialogue_id = _dialogue_id(key, entry)
        turns = turns_of(entry)
    except _InvalidRecord as error:
        return Record(where, 0, None, str(error))
    spoken = (
        Turn(turn[0][0], "\n".join(text.strip() for _, text in turn if text.strip()))
        for turn in turns
        if turn
    )
    return Record(
        where=where,
        num_empty_messages=sum(not text.strip() for turn in turns for _, text in turn),
        dialogue=Dialogue(dialogue_id, tuple(turn for turn in spoken if turn.utterance)),
        fault=None,
    )


def _dialogue_id(key: str, entry: Any) -> str:
    """The record's own id if it has one, else its key or place in the file."""
    for name in ("dialogue_id", "id", "conversation_id"):
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _checked(str(value), repr(name))
    return _checked(key, "the key")


def _chitchat_turns(entry: Any) -> list[list[tuple[str, str]]]:
    """A block of messages that one sender wrote in a row is one turn."""
    blocks = _list(entry, "messages")
    turns: list[list[tuple[str, str]]] = []
    for number, block in enumerate(blocks, start=1):
        if not isinstance(block, list):
            raise _InvalidRecord(f"messages {number}: wanted a list, found {_kind(block)}")
        for message in block:
            said = (
                _text(message, ("sender",), f"messages {number}"),
                _text(message, ("text",), f"messages {number}"),
            )
            if turns and turns[-1] and message is not block[0] and turns[-1][0][0] == said[0]:
                turns[-1].append(said)
            else:
                turns.append([said])
    return turns


def _flat_turns(
    list_keys: tuple[str, ...], speaker_keys: tuple[str, ...], text_keys: tuple[str, ...]
) -> Callable[[Any], list[list[tuple[str, str]]]]:
    """A reader of records whose list holds one turn per item."""

    def turns_of(entry: Any) -> list[list[tuple[str, str]]]:
        found = [key for key in list_keys if isinstance(entry, dict) and key in entry]
        items = _list(entry, found[0] if found else list_keys[0])
        return [
            [
                (
                    _text(item, speaker_keys, f"turn {number}"),
                    _text(item, text_keys, f"turn {number}"),
                )
            ]
            for number, item in enumerate(items, start=1)
        ]

    return turns_of


def _list(entry: Any, key: str) -> list[Any]:
    if not isinstance(entry, dict):
        raise _InvalidRecord(f"wanted an object with {key!r}, found {_kind(entry)}")
    value = entry.get(key)
    if not isinstance(value, list):
        raise _InvalidRecord(f"{key!r}: wanted a list, found {_kind(value)}")
    return value


def _text(item: Any, keys: tuple[str, ...], where: str) -> str:
    if not isinstance(item, dict):
        raise _InvalidRecord(f"{where}: wanted an object, found {_kind(item)}")
    for key in keys:
        if key in item:
            value = item[key]
            if not isinstance(value, str):
                raise _InvalidRecord(f"{where}: {key!r}: wanted text, found {_kind(value)}")
            return _checked(value, f"{where}: {key!r}")
    raise _InvalidRecord(f"{where}: wanted {' or '.join(map(repr, keys))}, found neither")


def _checked(text: str, what: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _InvalidRecord(f"{what} holds a lone surrogate, which is not text")
    return text


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


_TURN_LISTS = ("turns", "dialogue", "utterances")
_LAYOUTS: dict[str, Callable[[Any], list[list[tuple[str, str]]]]] = {
    "chitchat": _chitchat_turns,
    "dialogues": _flat_turns(_TURN_LISTS, ("speaker",), ("text", "utterance", "content")),
    "messages": _flat_turns(("messages",), ("role",), ("content",)),
    "sharegpt": _flat_turns(("conversations",), ("from",), ("value",)),
}
