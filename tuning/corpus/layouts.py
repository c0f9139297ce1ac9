"""Layouts by shape: a table of what a record may look like, each with its source.

A record is asked in the table's order, each record by itself, so that one file may mix layouts. A
row is a layout: whether a record has its shape, and how it is read into drafts of dialogues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuning.corpus import chat_apps, pairs, trees
from tuning.corpus.faults import Invalid, keys
from tuning.corpus.messages import (
    FLAG_KEYS,
    SYSTEM_KEYS,
    TOOLS_KEYS,
    Draft,
    Reader,
    is_message,
    system_of,
    tools_of,
    weight_of,
)
from tuning.corpus.roles import role_of

LIST_KEYS: Final = (
    "messages",
    "conversations",
    "conversation",
    "turns",
    "dialogue",
    "dialog",
    "utterances",
    "thread",
    "chat_messages",
    "chat",
    "log",
    "content",
)
"""Usual names of a list of messages; else it is the one list of messages under any name."""
ID_KEYS: Final = (
    "dialogue_id",
    "id",
    "conversation_id",
    "conv_id",
    "message_tree_id",
    "uuid",
    "thread_id",
    "c_id",
)


@dataclass(frozen=True)
class Layout:
    """A shape of record."""

    name: str
    source: str
    """Who has data in it."""
    fits: Callable[[Any], bool]
    read: Callable[[Any, Reader], list[Draft]]


def _message_list(entry: Mapping[str, Any]) -> str | None:
    """The key of an object's list of messages, by its usual names, then by what is in it."""
    spelled = {key.strip().casefold(): key for key in reversed(list(entry))}
    for name in LIST_KEYS:
        if name in spelled and _is_list_of_messages(entry[spelled[name]]):
            return spelled[name]
    found = [key for key, value in entry.items() if _is_list_of_messages(value, strict=True)]
    return found[0] if len(found) == 1 else None


def _is_list_of_messages(value: Any, *, strict: bool = False) -> bool:
    """Objects, texts, blocks of objects, or their form as JSON text or as a dict of lists.

    Args:
        value: What stands under a key.
        strict: Only objects that look like messages.
    """
    if isinstance(value, str) and not strict:
        return value.lstrip()[:2] in ("[{", "[ ", "[\n") and value.rstrip()[-1:] == "]"
    if isinstance(value, dict) and not strict:
        return bool(value) and all(isinstance(column, list) for column in value.values())
    if not isinstance(value, list) or not value:
        return False
    first = value[0]
    if isinstance(first, list):
        first = first[0] if first else None
        return not strict and isinstance(first, dict | str)
    if isinstance(first, str):
        return not strict
    return is_message(first)


def _read_messages(entry: Any, reader: Reader) -> list[Draft]:
    """A list of messages, and beside it a system text, tools, and who speaks where texts stand."""
    key = _message_list(entry)
    assert key is not None
    turns = reader.turns(entry[key], "turn")
    used = {key, *ID_KEYS, *SYSTEM_KEYS, *TOOLS_KEYS}
    speakers = next((k for k in ("speakers", "roles") if isinstance(entry.get(k), list)), None)
    if (
        speakers is not None
        and len(entry[speakers]) == len(turns)
        and entry[key]
        and all(isinstance(text, str) for text in entry[key])
    ):
        rows = [{"speaker": s, "text": t} for s, t in zip(entry[speakers], entry[key], strict=True)]
        turns, used = reader.turns(rows, "turn"), used | {speakers}
    reader.leave(entry, tuple(used))
    return [Draft(system_of(entry, turns) + turns, tools=tools_of(entry))]


def _is_list(entry: Any) -> bool:
    if not isinstance(entry, list) or not entry:
        return False
    if all(isinstance(one, list) and len(one) == 2 for one in entry):  # [["human", "hi"], …]
        return all(isinstance(one[0], str) and role_of(one[0], {}) for one in entry)
    return all(isinstance(one, str) for one in entry) or is_message(entry[0])


def _read_list(entry: Any, reader: Reader) -> list[Draft]:
    return [Draft(reader.turns(entry, "turn"))]


def _is_preference(entry: Any) -> bool:
    return isinstance(entry, dict) and (
        {"chosen", "rejected"} <= entry.keys()
        or isinstance(entry.get("label"), bool)
        or (entry.get("label") in (0, 1) and pairs.is_pair(entry))
    )


def _refuse_preference(entry: Any, _reader: Reader) -> list[Draft]:
    held = "'chosen' and 'rejected'" if "chosen" in entry else "'label'"
    raise Invalid(
        "preference",
        f"found {held}: a preference, which is not trained as if it were plain. To train on the "
        "preferred answers, say where they are: data.columns.list: chosen (or leave out the "
        "records whose label is false).",
    )


def _records_in(entry: Any) -> list[tuple[str, Any]]:
    """The records of a wrapper, with the keys that lead to them."""
    if isinstance(entry, list):
        return [(f"/{number}", one) for number, one in enumerate(entry, start=1)]
    found = []
    for key, value in entry.items():
        if isinstance(value, dict) and isinstance(value.get("list"), list):  # Telegram: chats.list
            value = value["list"]
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            found += [(f"/{key}/{number}", one) for number, one in enumerate(value, start=1)]
    return found


def _is_wrapper(entry: Any) -> bool:
    if isinstance(entry, list):
        return bool(entry) and layout_of(entry[0]) is not None
    if not isinstance(entry, dict):
        return False
    records = _records_in(entry)
    return bool(records) and layout_of(records[0][1]) is not None


def _read_wrapper(entry: Any, reader: Reader) -> list[Draft]:
    drafts = []
    for place, record in _records_in(entry):
        read = read_record(record, reader)
        for number, draft in enumerate(read):
            own = id_of(record) if len(read) == 1 else None
            draft.dialogue_id = (
                draft.dialogue_id or own or f"{place}#{number}"[: None if number else -2]
            )
            drafts.append(draft)
    return drafts


LAYOUTS: Final = (
    Layout("preference", "TRL's DPO and KTO, LLaMA-Factory", _is_preference, _refuse_preference),
    Layout("chatgpt", "ChatGPT's data export", trees.is_mapping, trees.read_mapping),
    Layout("oasst", "Open Assistant's message trees", trees.is_tree, trees.read_tree),
    Layout("personachat", "PersonaChat", pairs.is_persona, pairs.read_persona),
    Layout("app", "Telegram, Discord, Messenger", chat_apps.is_export, chat_apps.read_export),
    Layout("prompt and completion", "TRL", pairs.is_prompt, pairs.read_prompt),
    Layout("list of pairs", "Baize, InternLM", pairs.is_pair_list, pairs.read_pair_list),
    Layout(
        "messages",
        "OpenAI, ShareGPT, Schema-Guided Dialogue, DailyDialog, BYU chit-chat, Claude's export",
        lambda entry: isinstance(entry, dict) and _message_list(entry) is not None,
        _read_messages,
    ),
    Layout("pair", "Alpaca, Dolly, question and answer", pairs.is_pair, pairs.read_pair),
    Layout("marked text", "Guanaco, Anthropic's HH", pairs.is_marked, pairs.read_marked),
    Layout("list", "lists of messages or texts", _is_list, _read_list),
    Layout("wrapper", "records under a key", _is_wrapper, _read_wrapper),
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
        return bool(value) and is_message(value[0])
    layout = layout_of(value)
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
    flags = [key for key in FLAG_KEYS if isinstance(entry, dict) and key in entry]
    if flags and weight_of(entry, flags, "the record") == 0:
        for draft in drafts:
            for turn in draft.turns:
                turn.weight = 0.0
    return drafts


def unknown_message(entry: Any) -> str:
    """Say what a record holds, what was wanted, and the mapping to start from."""
    lists = [k for k, v in entry.items() if isinstance(v, list)] if isinstance(entry, dict) else []
    start = f"list: {lists[0]}, who: …, text: …" if lists else "list: …, who: …, text: …"
    return (
        f"its layout is not known: found {keys(entry)}; wanted a list of messages that holds "
        "something (each with a text and who says it), a prompt and its response, or a list of "
        f"texts. Or say where they are: data.columns: {{{start}}}"
    )


def id_of(entry: Any) -> str | None:
    """Return a record's own id, if it has one."""
    for name in ID_KEYS:
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None
