"""One raw record in one of six layouts -> a dialogue, or the fault that keeps it from being one.

``messages``   {"messages": [{"role", "content"}, …]}; content is text, or parts of type text
``sharegpt``   {"conversations": [{"from", "value"}, …]}
``dialogues``  {"turns": [{"speaker", "text"}, …]}; or "dialogue", "dialog", "utterances" for the
               list, and "utterance", "content" for the text
``strings``    ["Hello", "Hi", …], or such a list under a key of ``dialogues``: two speakers, A and
               B, in turn
``prompts``    {"prompt", "response"} (or "completion"): one exchange of user and assistant
``chitchat``   {"messages": [[{"text", "sender"}, …], …]}; a sender's texts in a block are a turn

Other keys are ignored. Sources: OpenAI's chat format, ShareGPT, Google's Schema-Guided Dialogue,
DailyDialog, prompt-completion data sets, the BYU chit-chat corpus.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from tuning.dialogue import Dialogue, Turn
from tuning.reading.pieces import RawRecord
from tuning.run.errors import UserError
from tuning.run.params import Layout

SPEAKERS = "speakers"
"""The value of ``data.group_by`` that means a dialogue's own speakers."""

Message = tuple[str, str]
"""Speaker and text."""

_TURN_LISTS = ("turns", "dialogue", "dialog", "utterances")
_RESPONSES = ("response", "completion")
RECORD_KEYS = frozenset({"messages", "conversations", "prompt", *_TURN_LISTS})
"""An object with one of these is a record, not a table of records by id."""
_ID_KEYS = ("dialogue_id", "id", "conversation_id")
_NOT_TEXT = re.compile("[\ud800-\udfff\0]")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the input: a dialogue, or the fault that keeps it from being one."""

    where: str
    dialogue: Dialogue | None = None
    groups: tuple[str, ...] = ()
    """Values of the ``data.group_by`` field; none without one."""
    num_raw_turns: int = 0
    """Turns before those with nothing but white space are left out."""
    num_raw_characters: int = 0
    """Characters before white space is stripped, a line end between two messages of a turn."""
    reason: str = ""
    """The fault in a word or two, for counting."""
    fault: str = ""
    """The fault in full: the value that was found and the form that was wanted."""


class _Invalid(Exception):
    """A reason to count, and what was found and wanted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_record(raw: RawRecord, layout: Layout, group_by: str | None = None) -> Record:
    """Decode and check one record; whatever is wrong with it becomes its fault."""
    try:
        entry = _decoded(raw.text)
        dialogue_id = _dialogue_id(raw.key, entry)
        turns = [turn for turn in _LAYOUTS[layout](entry) if turn]
        spoken = [_turn(turn) for turn in turns]
        dialogue = Dialogue(dialogue_id, tuple(turn for turn in spoken if turn.utterance))
        return Record(
            raw.where,
            dialogue,
            _groups(entry, dialogue, group_by),
            len(turns),
            sum(len(text) + 1 for turn in turns for _, text in turn) - len(turns),
        )
    except _Invalid as invalid:
        return Record(raw.where, reason=invalid.reason, fault=str(invalid))


def recognise(path: object, records: Iterable[RawRecord]) -> Layout:
    """The layout of the first record that tells it: one with a list in use.

    Raises:
        UserError: no record tells; the message shows what the first one holds.
    """
    first = ""
    num_records = num_unreadable = 0
    for raw in records:
        num_records += 1
        try:
            entry = _decoded(raw.text)
        except _Invalid as invalid:
            num_unreadable += 1
            first = first or f"{raw.where}: {invalid}"
            continue
        if layout := _layout_of(entry):
            return layout
        first = first or f"{raw.where}: found {_keys(entry)}"
    names = "one JSON document is named .json, a record per line .jsonl"
    if num_unreadable == num_records:
        raise UserError(f"{path}: none of {num_records:,} records can be read. {first}; {names}.")
    others = f" (and {num_records - 1:,} more that do not tell)" if num_records > 1 else ""
    wanted = ", ".join(map(repr, sorted(RECORD_KEYS)))
    raise UserError(
        f"{path}: the layout of its dialogues is not known. {first}{others}; wanted one of the "
        f"keys {wanted} with a list that holds something (or a prompt), or a list of texts; "
        f"{names}. Or name the layout: data.format is one of {', '.join(get_args(Layout))}."
    )


def _decoded(text: str | bytes) -> Any:
    """The record's JSON value; a repeated key is a fault, for Python would keep the last one."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_object_of)
    except UnicodeDecodeError as error:
        message = f"byte {error.start} of the line is not UTF-8 ({error.reason})"
        raise _Invalid("not_utf8", f"{message}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} of it"
        message = f"not JSON: {error.msg.removesuffix(' at')} at {place}"
        raise _Invalid("not_json", message) from None
    except RecursionError:
        raise _Invalid("not_json", "not usable JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        message = str(error).partition(";")[0]
        raise _Invalid("not_json", f"not usable JSON: {message}") from None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _Invalid("repeated_key", f"the key {key[:40]!r} stands twice in one object")
    return result


def _layout_of(entry: Any) -> Layout | None:
    """The entry's layout; None if it does not tell: no list in use, or nothing in that list."""
    if isinstance(entry, list):
        return "strings" if entry and all(isinstance(text, str) for text in entry) else None
    if not isinstance(entry, dict):
        return None
    for key in ("messages", "conversations", *_TURN_LISTS):
        if key in entry:
            items = entry[key]
            if not isinstance(items, list) or not items:
                return None
            if key == "messages":
                return "chitchat" if isinstance(items[0], list) else "messages"
            if key == "conversations":
                return "sharegpt"
            return "strings" if isinstance(items[0], str) else "dialogues"
    return "prompts" if "prompt" in entry else None


def _turn(messages: list[Message]) -> Turn:
    """The messages of one speaker as lines, without white space around them or empty ones."""
    if len(messages) == 1:  # as nearly all turns are
        [(speaker, text)] = messages
        return Turn(speaker, text.strip())
    lines = (text.strip() for _, text in messages)
    return Turn(messages[0][0], "\n".join(line for line in lines if line))


def _dialogue_id(key: str, entry: Any) -> str:
    """The record's own id if it has one, else its key or place in the file."""
    for name in _ID_KEYS:
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _checked(str(value), repr(name))
    return _checked(key, "the key")


def _groups(entry: Any, dialogue: Dialogue, group_by: str | None) -> tuple[str, ...]:
    """The group or groups that a dialogue belongs to; every dialogue must name one."""
    if group_by is None:
        return ()
    if group_by == SPEAKERS:
        return dialogue.speakers
    value = entry.get(group_by) if isinstance(entry, dict) else None
    values = value if isinstance(value, list) and value else [value]
    if not all(isinstance(v, str | int) and not isinstance(v, bool) for v in values):
        raise _Invalid(
            "missing_group", f"{group_by!r} (data.group_by): wanted text or a list of texts, "
            f"found {_kind(value)}",
        )  # fmt: skip
    return tuple(dict.fromkeys(_checked(str(v), repr(group_by)) for v in values))


def _chitchat_turns(entry: Any) -> list[list[Message]]:
    """A block of messages that one sender wrote in a row is one turn."""
    turns: list[list[Message]] = []
    for number, block in enumerate(_list(entry, "messages"), start=1):
        if not isinstance(block, list):
            raise _Invalid("wrong_layout", f"messages {number}: wanted a list, {_found(block)}")
        turn: list[Message] = []
        for item in block:
            where = f"messages {number}"
            message = (_speaker(item, "sender", where), _text(item, ("text",), where))
            if turn and turn[0][0] != message[0]:
                turns.append(turn)
                turn = []
            turn.append(message)
        turns.append(turn)
    return turns


def _dialogue_turns(entry: Any) -> list[list[Message]]:
    return [
        [
            (
                _speaker(item, "speaker", f"turn {number}"),
                _text(item, ("text", "utterance", "content"), f"turn {number}"),
            )
        ]
        for number, item in enumerate(_turn_list(entry), start=1)
    ]


def _sharegpt_turns(entry: Any) -> list[list[Message]]:
    return [
        [(_speaker(item, "from", f"turn {number}"), _text(item, ("value",), f"turn {number}"))]
        for number, item in enumerate(_list(entry, "conversations"), start=1)
    ]


def _openai_turns(entry: Any) -> list[list[Message]]:
    """Content is text, or a list of parts of type text, which are lines of the turn."""
    turns: list[list[Message]] = []
    for number, item in enumerate(_list(entry, "messages"), start=1):
        where = f"turn {number}"
        role = _speaker(item, "role", where)
        content = item.get("content")
        if not isinstance(content, list):
            turns.append([(role, _text(item, ("content",), where))])
            continue
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise _Invalid(
                    "not_text", f"{where}: 'content': wanted parts of type 'text', {_found(kind)}"
                )
        turns.append([(role, _text(part, ("text",), where)) for part in content])
    return turns


def _string_turns(entry: Any) -> list[list[Message]]:
    texts = entry if isinstance(entry, list) else _turn_list(entry)
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            reason = "no_text" if text is None else "not_text"
            raise _Invalid(reason, f"turn {number}: wanted text, {_found(text)}")
    return [
        [("AB"[index % 2], _checked(text, f"turn {index + 1}"))] for index, text in enumerate(texts)
    ]


def _prompt_turns(entry: Any) -> list[list[Message]]:
    return [
        [("user", _text(entry, ("prompt",), "the record"))],
        [("assistant", _text(entry, _RESPONSES, "the record"))],
    ]


def _turn_list(entry: Any) -> list[Any]:
    found = [key for key in _TURN_LISTS if isinstance(entry, dict) and key in entry]
    return _list(entry, found[0] if found else _TURN_LISTS[0])


def _list(entry: Any, key: str) -> list[Any]:
    if not isinstance(entry, dict):
        raise _Invalid("wrong_layout", f"wanted an object with {key!r}, {_found(entry)}")
    if key not in entry:
        raise _Invalid("wrong_layout", f"wanted {key!r}, found {_keys(entry)}")
    value = entry[key]
    if not isinstance(value, list):
        raise _Invalid("wrong_layout", f"{key!r}: wanted a list, {_found(value)}")
    return value


def _speaker(item: Any, key: str, where: str) -> str:
    name = _text(item, (key,), where, "missing_speaker")
    if not name.strip():
        raise _Invalid("missing_speaker", f"{where}: {key!r}: wanted a name, {_found(name)}")
    return name


def _text(item: Any, keys: tuple[str, ...], where: str, if_missing: str = "no_text") -> str:
    if not isinstance(item, dict):
        raise _Invalid("wrong_layout", f"{where}: wanted an object, {_found(item)}")
    for key in keys:
        if key in item:
            value = item[key]
            if value is None:
                raise _Invalid(if_missing, f"{where}: {key!r}: wanted text, found nothing")
            if not isinstance(value, str):
                raise _Invalid("not_text", f"{where}: {key!r}: wanted text, {_found(value)}")
            return _checked(value, f"{where}: {key!r}") if _NOT_TEXT.search(value) else value
    wanted = " or ".join(map(repr, keys))
    raise _Invalid(if_missing, f"{where}: wanted {wanted}, found {_keys(item)}")


def _checked(text: str, what: str) -> str:
    if found := _NOT_TEXT.search(text):
        name = "the character NUL" if found[0] == "\0" else "a lone surrogate"
        raise _Invalid("not_text", f"{what} holds {name}, which is not text")
    return text


def _found(value: Any) -> str:
    return f"found {_kind(value)}"


def _keys(entry: Any) -> str:
    """Name an object's keys for a message; of any other value, its kind."""
    if not isinstance(entry, dict):
        return _kind(entry)
    return ", ".join(repr(key[:40]) for key in list(entry)[:8]) or "nothing"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


_LAYOUTS: dict[Layout, Callable[[Any], list[list[Message]]]] = {
    "chitchat": _chitchat_turns,
    "dialogues": _dialogue_turns,
    "messages": _openai_turns,
    "prompts": _prompt_turns,
    "sharegpt": _sharegpt_turns,
    "strings": _string_turns,
}
REASONS = (
    "missing_group",
    "missing_speaker",
    "no_text",
    "not_json",
    "not_text",
    "not_utf8",
    "repeated_key",
    "wrong_layout",
)
"""Every reason that a record can be counted under."""
