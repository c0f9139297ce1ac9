"""Layouts by shape: a table of what a record may look like, each with its source.

A record is asked in the table's order, each record by itself, so that one file may mix layouts. A
row is a layout: whether a record has its shape, and how it is read into drafts of dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuning.corpus import chat_apps, logged, marked, pairs, preferences, trees
from tuning.corpus.beside import ID_KEYS, id_of, with_beside
from tuning.corpus.drafts import Draft
from tuning.corpus.faults import Invalid, keys, unpacked
from tuning.corpus.flags import weigh
from tuning.corpus.message_keys import LIST_KEYS, spelled, spellings
from tuning.corpus.message_shapes import as_rows, is_message, is_spoken
from tuning.corpus.messages import Reader
from tuning.corpus.roles import role_of

_ALSO_TEXTS: Final = LIST_KEYS[-3:]
"""Of these, the ones that hold a text as often."""
_TELLING: Final = frozenset({"prompt", "completion", "mapping", "instruction", "query", "history"})
"""An object with one of these is a record before the rest of it is read."""
_ANSWERS: Final = ("response", "completion", "answer", "output")
"""What may be the last turn where it stands beside messages."""
_QUESTIONS: Final = ("question", "prompt", "instruction", "query")
"""An object with one of these as text is no wrapper of others: lists in it are its answers."""
_LONGEST_NAME: Final = 32
_DEEPEST: Final = 3
"""Wrappers within each other."""
_NUM_ASKED: Final = 20
"""Of a wrapper's records, those that are asked whether they are some."""


@dataclass(frozen=True)
class Layout:
    """A shape of record."""

    name: str
    source: str
    """Who has data in it."""
    fits: Callable[[Any], bool]
    read: Callable[[Any, Reader], list[Draft]]


def _usual_list(entry: Mapping[str, Any]) -> str | None:
    """The key of an object's list of messages, by its usual names."""
    return next((key for key in _usual_lists(entry) if _is_list_of_messages(key, entry[key])), None)


def _other_list(entry: Mapping[str, Any]) -> str | None:
    """The key of the one list of messages that an object has, under whatever name."""
    found = [key for key, value in entry.items() if _is_spoken_list(value)]
    return found[0] if len(found) == 1 else None


def _usual_lists(entry: Mapping[str, Any]) -> list[str]:
    """The keys of an object that usually hold a list of messages, the most usual first."""
    keys_of = spellings(entry)
    return [keys_of[name] for name in LIST_KEYS if name in keys_of]


def _is_list_of_messages(key: str, value: Any) -> bool:
    """Objects, texts, blocks of objects, or their form as JSON text or as a dict of lists."""
    if spelled(key) in _ALSO_TEXTS and isinstance(value, str):
        return False
    if spelled(key) == "content":  # or the parts of a message
        return _is_spoken_list(value)
    value = _unpacked_list(value)
    if isinstance(value, dict):
        columns = all(isinstance(column, list) for column in value.values())
        return columns and is_message(dict.fromkeys(value, ""))
    if not isinstance(value, list):
        return False
    first = next((one for one in value if one not in (None, [])), None)
    if isinstance(first, list):
        return isinstance(first[0], dict | str)
    return isinstance(first, str) or is_message(first)


def _is_spoken_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_spoken(value[0])


def _unpacked_list(value: Any) -> Any:
    """A list that stands there as JSON text; a broken one is taken for a list, and its fault."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    rows = unpacked(value)
    return [""] if rows is value and value.lstrip()[:2] == "[{" else rows


def _read_usual(entry: Any, reader: Reader) -> list[Draft]:
    key = _usual_list(entry)
    assert key is not None
    return _read_messages(entry, reader, key)


def _read_other(entry: Any, reader: Reader) -> list[Draft]:
    key = _other_list(entry)
    assert key is not None
    return _read_messages(entry, reader, key)


def _read_messages(entry: Any, reader: Reader, key: str) -> list[Draft]:
    """A list of messages, and beside it a system text, tools, and who speaks where texts stand."""
    items, used = as_rows(unpacked(entry[key]), key), {key, *ID_KEYS}
    answer = next((k for k in _ANSWERS if k != key and _is_answer(entry.get(k))), None)
    if answer is not None:
        is_text = isinstance(entry[answer], str)
        spoken = f"{{role: 'assistant', content: {answer}}}" if is_text else answer
        raise Invalid(
            "wrong_layout",
            f"found {key!r} and {answer!r} beside it. If it is the answer, say so: data.columns: "
            f'{{list: "[{key}, [{spoken}]][]"}}; if not: data.columns: {{list: {key}}}',
        )
    speakers = next((k for k in ("speakers", "roles") if isinstance(entry.get(k), list)), None)
    is_texts = all(isinstance(text, str) for text in items)
    if speakers is not None and is_texts and len(entry[speakers]) == len(items):
        pairs = zip(entry[speakers], items, strict=True)
        items = [{"speaker": speaker, "text": text} for speaker, text in pairs]
        used.add(speakers)
    return [with_beside(entry, reader, Draft(reader.turns(items, "turn")), used)]


def _is_answer(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else is_spoken(value)


def _is_list(entry: Any) -> bool:
    if not isinstance(entry, list):
        return False
    if entry and all(isinstance(one, list) and len(one) == 2 for one in entry):
        return all(isinstance(one[0], str) and role_of(one[0], {}) for one in entry)
    return (
        not entry
        or all(isinstance(one, str) for one in entry)
        or (is_message(entry[0]) and not marked.is_marked(entry[0]))
    )


def _read_list(entry: Any, reader: Reader) -> list[Draft]:
    return [Draft(reader.turns(entry, "turn"))]


def _is_empty(entry: Any) -> bool:
    return isinstance(entry, dict) and any(entry[key] == [] for key in _usual_lists(entry))


def _read_empty(entry: Any, reader: Reader) -> list[Draft]:
    return [with_beside(entry, reader, Draft([]), ID_KEYS)]


def _records_in(entry: Any) -> list[tuple[str, str, Any]]:
    """The records of a wrapper: the key that they stand under, the way to each, and itself."""
    if isinstance(entry, list):
        return [("", f"/{number}", one) for number, one in enumerate(entry, start=1)]
    records: list[tuple[str, str, Any]] = []
    for key, value in entry.items():
        if isinstance(value, dict) and isinstance(value.get("list"), list):  # Telegram: chats.list
            value = value["list"]
        if _is_record(value):
            records.append((key, f"/{key}", value))
            continue
        inside = dict(enumerate(value, start=1)) if isinstance(value, list) else value
        if isinstance(inside, dict) and all(isinstance(v, dict | list) for v in inside.values()):
            records += [(key, f"/{key}/{name}", one) for name, one in inside.items()]
    return records


def _is_record(value: Any) -> bool:
    """A record by itself, among others; a list is one only if its messages say who speaks."""
    if isinstance(value, dict):
        return any(layout.fits(value) for layout in _RECORDS)
    return _is_spoken_list(value)


def _is_wrapper(entry: Any, depth: int = _DEEPEST) -> bool:
    if not depth or not isinstance(entry, list | dict):
        return False
    if isinstance(entry, dict) and any(isinstance(entry.get(key), str) for key in _QUESTIONS):
        return False
    first = (record for _, _, record in _records_in(entry)[:_NUM_ASKED])
    return any(
        any(layout.fits(record) for layout in _RECORDS) or _is_wrapper(record, depth - 1)
        for record in first
    )


def _read_wrapper(entry: Any, reader: Reader) -> list[Draft]:
    """Read each record by itself, so that a fault of one is not the others'."""
    drafts = []
    records = _records_in(entry)
    for _, place, record in records:
        try:
            read = read_record(record, reader)
        except Invalid as invalid:
            read = [Draft([], fault=invalid)]
        own = id_of(record) if len(read) == 1 else None
        for number, draft in enumerate(read):
            inner = draft.dialogue_id or own or (f"/{number + 1}" if len(read) > 1 else "")
            draft.dialogue_id = inner if inner and inner[0] != "/" else place + inner
            draft.place = place + draft.place
            drafts.append(draft)
    if isinstance(entry, dict):
        reader.leave(entry, {key for key, _, _ in records})
    return drafts


_RECORDS: Final = (
    Layout(
        "preference",
        "TRL's DPO and KTO, LLaMA-Factory",
        preferences.is_preference,
        preferences.refuse,
    ),
    Layout("chatgpt", "ChatGPT's data export", trees.is_mapping, trees.read_mapping),
    Layout("oasst", "Open Assistant's message trees", trees.is_tree, trees.read_tree),
    Layout("personachat", "PersonaChat", pairs.is_persona, pairs.read_persona),
    Layout(
        "app",
        "Telegram, Discord, Messenger, WhatsApp, Slack",
        chat_apps.is_export,
        chat_apps.read_export,
    ),
    Layout("prompt and completion", "TRL, OpenAI's Responses", pairs.is_prompt, pairs.read_prompt),
    Layout("request and response", "OpenAI's batches", logged.is_logged, logged.read_logged),
    Layout(
        "messages",
        "OpenAI, ShareGPT, Schema-Guided Dialogue, DailyDialog, BYU chit-chat, Claude's export",
        lambda entry: isinstance(entry, dict) and _usual_list(entry) is not None,
        _read_usual,
    ),
    Layout("pair", "Alpaca, Dolly, question and answer", pairs.is_pair, pairs.read_pair),
    Layout("list of pairs", "Baize, InternLM", pairs.is_pair_list, pairs.read_pair_list),
    Layout(
        "marked text",
        "Guanaco, Anthropic's HH; ChatML, Llama, Gemma, Zephyr",
        marked.is_marked,
        marked.read_marked,
    ),
    Layout(
        "messages under another name",
        "transcripts",
        lambda entry: isinstance(entry, dict) and _other_list(entry) is not None,
        _read_other,
    ),
    Layout("list", "lists of messages or texts", _is_list, _read_list),
)
LAYOUTS: Final = (
    *_RECORDS,
    Layout("wrapper", "records under a key", _is_wrapper, _read_wrapper),
    Layout("no messages", "exports of chats that hold nothing", _is_empty, _read_empty),
)


def layout_of(entry: Any) -> Layout | None:
    """Return the first layout that a record has the shape of."""
    return next((layout for layout in LAYOUTS if layout.fits(entry)), None)


def is_record(value: Any) -> bool:
    """Tell whether a JSON value is one dialogue: not one of its messages, not a list of dialogues.

    Lists in an object may end at their first item, for this is asked while a file is read.
    """
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return len(value) > 1 and all(isinstance(text, str) for text in value)
        return bool(value) and _is_list(value)
    if isinstance(value, dict) and not _TELLING.isdisjoint(value):
        return True
    try:
        layout = layout_of(value)
    except Invalid:
        return True  # one with a fault
    return layout is not None and layout.name != "wrapper"


def read_record(entry: Any, reader: Reader) -> list[Draft]:
    """Read a record into drafts.

    Raises:
        Invalid: no layout fits, or something in it is wrong.
    """
    layout = layout_of(entry)
    if layout is None:
        raise Invalid("unknown_layout", unknown_message(entry))
    drafts = layout.read(entry, reader)
    for draft in drafts:
        weigh(draft.turns, entry, "the record")
    return drafts


def list_of(entry: Any) -> tuple[str | None, Any]:
    """Return a record's list of messages and its key, by its usual names or as its one list."""
    if not isinstance(entry, dict):
        return None, unpacked(entry)
    values = {key: unpacked(value) for key, value in entry.items()}
    lists = [key for key in values if isinstance(values[key], list)]
    key = next((k for k in _usual_lists(entry) if isinstance(values[k], list | dict)), None)
    if key is None and len(lists) == 1:
        key = lists[0]
    return key, values.get(key)


def unknown_message(entry: Any) -> str:
    """Say what a record holds, what was wanted, and the mapping to start from."""
    lists = [k for k, v in entry.items() if isinstance(v, list)] if isinstance(entry, dict) else []
    start = f"list: {lists[0]}, who: …, text: …" if lists else "list: …, who: …, text: …"
    texts = _texts_of(entry) if not lists and isinstance(entry, dict) else []
    if len(texts) == 2:
        said = zip(("user", "assistant"), texts, strict=True)
        turns = ", ".join(f"{{role: '{role}', content: {_quoted(key)}}}" for role, key in said)
        start = f'list: "[{turns}]"'
    return (
        f"its layout is not known: found {keys(entry)}; wanted a list of messages (each with a "
        "text and who says it), a prompt and its response, or a list of "
        f"texts. Or say where they are: data.columns: {{{start}}}"
    )


def _texts_of(entry: Mapping[str, Any]) -> list[str]:
    """The keys of an object's texts, its id left out, if they are names rather than texts."""
    texts = [k for k, v in entry.items() if isinstance(v, str) and k not in ID_KEYS]
    return texts if all(len(key) <= _LONGEST_NAME for key in texts) else []


def _quoted(key: str) -> str:
    """A key as JMESPath has it within YAML: what is no plain name stands in quotation marks."""
    is_plain = key.isascii() and key.isidentifier()
    return key if is_plain else json.dumps(json.dumps(key, ensure_ascii=False))[1:-1]
