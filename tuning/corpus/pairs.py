"""Prompts and responses: pairs of fields, lists of pairs, texts with marks, candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tuning.corpus.faults import Invalid, checked, found
from tuning.corpus.messages import (
    SYSTEM_KEYS,
    TOOLS_KEYS,
    Draft,
    DraftTurn,
    Reader,
    is_message,
    system_of,
    tools_of,
)
from tuning.corpus.roles import role_of
from tuning.dialogue import Role

PROMPTS: Final = ("prompt", "instruction", "query", "question", "input", "human", "user")
RESPONSES: Final = ("response", "completion", "output", "answer", "assistant", "target", "reply")
_BESIDE: Final = (
    *SYSTEM_KEYS,
    *TOOLS_KEYS,
    "history",
    "input",
    "id",
    "dialogue_id",
    "conversation_id",
)
"""Keys that a pair may have besides, which are used."""
_MARK: Final = re.compile(
    r"(?:^|\n)(?:###\s*)?(Human|User|Assistant|System|Bot|AI|Prompter)\s*:[ \t]?", re.IGNORECASE
)


def _keys_of(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of prompt and response, in any case."""
    spelled = {key.strip().casefold(): key for key in reversed(list(entry))}
    prompt = next((spelled[key] for key in PROMPTS if key in spelled), None)
    response = next((spelled[key] for key in RESPONSES if key in spelled), None)
    return (prompt, response) if prompt is not None and response is not None else None


def is_pair(entry: Any) -> bool:
    """Tell whether an object has a prompt and a response, both text."""
    if not isinstance(entry, dict):
        return False
    pair = _keys_of(entry)
    return pair is not None and all(isinstance(entry[key], str | None) for key in pair)


def read_pair(entry: Any, reader: Reader) -> list[Draft]:
    """Read Alpaca's and other pairs, with a system text, an input and a history beside them."""
    pair = _keys_of(entry)
    assert pair is not None
    turns = system_of(entry)
    for number, past in enumerate(_history(entry), start=1):
        turns.append(_turn(past[0], "user", f"history {number}", weight=0))
        turns.append(_turn(past[1], "assistant", f"history {number}", weight=0))
    prompt = _text(entry, pair[0])
    given = entry.get("input")
    if isinstance(given, str) and given.strip() and pair[0] != "input":
        prompt = f"{prompt}\n{checked(given, repr('input'))}"
    turns.append(_turn(prompt, "user", repr(pair[0])))
    turns.append(_turn(_text(entry, pair[1]), "assistant", repr(pair[1])))
    reader.leave(entry, (*pair, *_BESIDE))
    return [Draft(turns, tools=tools_of(entry))]


def is_pair_list(entry: Any) -> bool:
    """Tell whether an object has a list of exchanges, each an object with both sides."""
    return isinstance(entry, dict) and _pair_list(entry) is not None


def _pair_list(entry: Mapping[str, Any]) -> str | None:
    for key, value in entry.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            pair = _keys_of(value[0])
            if pair and isinstance(value[0][pair[0]], str) and not is_message(value[0]):
                return key
    return None


def read_pair_list(entry: Any, reader: Reader) -> list[Draft]:
    """Read exchanges one after another; a system text stands beside or in the first of them."""
    key = _pair_list(entry)
    assert key is not None
    turns = system_of(entry)
    for number, exchange in enumerate(entry[key], start=1):
        where = f"{key} {number}"
        pair = _keys_of(exchange) if isinstance(exchange, dict) else None
        if pair is None:
            raise Invalid("wrong_layout", f"{where}: wanted both sides, {found(exchange)}")
        if not turns:
            turns += system_of(exchange)
        turns.append(_turn(_text(exchange, pair[0]), "user", where))
        turns.append(_turn(_text(exchange, pair[1]), "assistant", where))
        reader.leave(exchange, (*pair, *SYSTEM_KEYS), f"{key}.")
    reader.leave(entry, (key, *_BESIDE))
    return [Draft(turns, tools=tools_of(entry))]


def is_prompt(entry: Any) -> bool:
    """Tell whether an object has a prompt that is a list of messages, as TRL has it."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("prompt"), list)
        and bool(entry["prompt"])
        and isinstance(entry.get("completion", entry.get("response")), list)
    )


def read_prompt(entry: Any, reader: Reader) -> list[Draft]:
    """Read TRL's form: only the completion is trained."""
    key = "completion" if "completion" in entry else "response"
    turns = reader.turns(entry["prompt"], "prompt")
    for turn in turns:
        turn.weight = 0.0
    reader.leave(entry, ("prompt", key, *_BESIDE))
    completion = reader.turns(entry[key], key)
    return [Draft(system_of(entry, turns) + turns + completion, tools=tools_of(entry))]


def is_marked(entry: Any) -> bool:
    """Tell whether an object's one text holds turns behind marks such as ``### Human:``."""
    return isinstance(entry, dict) and _marked_text(entry) is not None


def _marked_text(entry: Mapping[str, Any]) -> str | None:
    text = entry.get("text")
    if not isinstance(text, str) or len(_MARK.findall(text)) < 2:
        return None
    return text if _MARK.match(text.lstrip() and text) or _MARK.match(text.lstrip()) else None


def read_marked(entry: Any, reader: Reader) -> list[Draft]:
    """Read a text by its marks: ``### Human: …`` or ``Human: …`` at the beginning of a line."""
    text = _marked_text(entry)
    assert text is not None
    reader.leave(entry, ("text", *_BESIDE))
    return [Draft(marked_turns(checked(text, "'text'"), reader))]


def marked_turns(text: str, reader: Reader) -> list[DraftTurn]:
    """Return the turns of a text with marks."""
    parts = _MARK.split(text)
    turns = []
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        role = role_of(name, reader.roles)
        turns.append(DraftTurn(role or name, [content], role=role))
    return turns


def is_persona(entry: Any) -> bool:
    """Tell whether an object has a persona and utterances with candidates."""
    if not isinstance(entry, dict) or not isinstance(entry.get("utterances"), list):
        return False
    return any(isinstance(one, dict) and "candidates" in one for one in entry["utterances"][:1])


def read_persona(entry: Any, reader: Reader) -> list[Draft]:
    """Read PersonaChat: the last history, then the last candidate; the persona is a system turn."""
    last = entry["utterances"][-1]
    history, candidates = last.get("history"), last.get("candidates")
    if not isinstance(history, list) or not isinstance(candidates, list) or not candidates:
        raise Invalid("wrong_layout", "utterances: wanted 'history' and 'candidates', both lists")
    persona = entry.get("personality")
    turns: list[DraftTurn] = []
    if isinstance(persona, list) and persona:
        lines = [checked(str(line), "'personality'") for line in persona]
        turns.append(DraftTurn("system", lines, role="system"))
    for number, text in enumerate([*history, candidates[-1]]):
        role: Role = "user" if number % 2 == 0 else "assistant"
        turns.append(_turn(text, role, f"history {number + 1}"))
    reader.leave(entry, ("utterances", "personality"))
    return [Draft(turns)]


def _history(entry: Mapping[str, Any]) -> list[list[Any]]:
    history = entry.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(past, list) and len(past) == 2 for past in history
    ):
        raise Invalid("wrong_layout", f"'history': wanted a list of pairs, {found(history)}")
    return history


def _text(entry: Mapping[str, Any], key: str) -> str:
    if entry[key] is None:
        raise Invalid("no_text", f"{key!r}: wanted text, found nothing")
    if not isinstance(entry[key], str):
        raise Invalid("not_text", f"{key!r}: wanted text, {found(entry[key])}")
    return str(entry[key])


def _turn(text: Any, role: Role, where: str, *, weight: float = 1.0) -> DraftTurn:
    if not isinstance(text, str):
        raise Invalid("not_text", f"{where}: wanted text, {found(text)}")
    return DraftTurn(role, [checked(text, where)], role=role, weight=weight)
