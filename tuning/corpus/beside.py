"""What stands beside a record's messages: its id, a system text, tools."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any, Final

from tuning.corpus.drafts import Draft, DraftTurn
from tuning.corpus.faults import Invalid, checked, holds
from tuning.corpus.message_keys import spellings
from tuning.corpus.messages import Reader

ID_KEYS: Final = (
    "dialogue_id",
    "id",
    "conversation_id",
    "conv_id",
    "message_tree_id",
    "uuid",
    "thread_id",
    "c_id",
    "dialog_id",
    "chat_id",
)
_SYSTEM: Final = ("system", "system_prompt", "system_message", "system_instruction")
_TOOLS: Final = ("tools", "functions", "available_tools")


def id_key(entry: Mapping[str, Any]) -> str | None:
    """Return the key of a record's own id, if it has one."""
    for name in ID_KEYS:
        value = entry.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return name
    return None


def id_of(entry: Any) -> str | None:
    """Return a record's own id, if it has one."""
    key = id_key(entry) if isinstance(entry, dict) else None
    return None if key is None else str(entry[key])


def with_beside(
    entry: Mapping[str, Any], reader: Reader, draft: Draft, used: Container[str | None]
) -> Draft:
    """Put the system text and the tools that stand beside a list into a draft.

    Whatever else stands there is counted as not used.

    Raises:
        Invalid: the messages begin with another system text.
    """
    keys = spellings(entry)
    found = {keys[name]: system_text(entry[keys[name]]) for name in _SYSTEM if name in keys}
    texts = {key: text for key, text in found.items() if text.strip()}
    tools = {key: tools_text(entry[key]) for key in _TOOLS if key in entry}
    named = next((key for key, text in tools.items() if text), "")
    draft.tools = tools.pop(named, "")
    taken = {named, *texts, *(key for key, text in tools.items() if not text)}
    reader.leave({key: value for key, value in entry.items() if key not in taken}, used)
    lines = [checked(text, repr(key)) for key, text in texts.items()]
    if lines and draft.turns and draft.turns[0].role == "system":
        if "\n".join(draft.turns[0].lines).strip() != "\n".join(lines).strip():
            raise Invalid(
                "wrong_layout", "a system text beside the messages and another one in them"
            )
    elif lines:
        draft.turns.insert(0, DraftTurn("system", lines, role="system"))
    return draft


def system_text(value: Any) -> str:
    """Return a system text, also of Gemini's form, an object with parts; none of anything else."""
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        texts = [part.get("text") for part in value["parts"] if isinstance(part, dict)]
        said = [text for text in texts if isinstance(text, str)]
        return "\n".join(said) if len(said) == len(value["parts"]) else ""
    return value if isinstance(value, str) else ""


def tools_text(value: Any) -> str:
    """Return the functions that may be called, as JSON text; none where there are none."""
    if not holds(value):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "" if text.strip() in ("", "[]", "{}", "null") else checked(text, "'tools'")
