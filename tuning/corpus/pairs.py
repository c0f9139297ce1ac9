"""Prompts and responses: pairs of fields, lists of pairs, candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tuning.corpus.beside import ID_KEYS, with_beside
from tuning.corpus.drafts import Draft, DraftTurn
from tuning.corpus.faults import Invalid, checked, found
from tuning.corpus.flags import weigh
from tuning.corpus.marked import is_templated, marked_turns
from tuning.corpus.message_keys import FLAG_KEYS, LIST_KEYS, spelled, spellings
from tuning.corpus.message_shapes import is_message
from tuning.corpus.messages import Reader
from tuning.dialogue import Role

PROMPTS: Final = ("prompt", "instruction", "query", "question", "input", "human", "user", "message")
RESPONSES: Final = (
    "response",
    "completion",
    "output",
    "answer",
    "assistant",
    "target",
    "reply",
    "bot",
    "ai",
    "gpt",
)
HISTORIES: Final = ("history", "chat_history", "conversation_history")
"""Turns before a prompt."""
GIVEN: Final = ("input", "context")
"""What an instruction is about: Alpaca's, Dolly's."""
_RESPONSES: Final = ("input", "output")
_SIDES: Final = (("prompt", "completion"), ("prompt", "response"), _RESPONSES)


def _keys_of(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of prompt and response, in any case."""
    keys = spellings(entry)
    prompt = next((keys[key] for key in PROMPTS if key in keys), None)
    response = next((keys[key] for key in RESPONSES if key in keys), None)
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
    if is_templated(entry[pair[0]]):  # the template's text, cut before the answer
        turns = marked_turns(_text(entry, pair[0]) + _text(entry, pair[1]), reader)
        return [with_beside(entry, reader, Draft(turns), {*pair, *ID_KEYS})]
    turns = _history(entry, reader)
    prompt = [_text(entry, pair[0])]
    given = next((k for k in GIVEN if k not in pair and _is_text(entry.get(k))), None)
    if given is not None:
        prompt.append(checked(entry[given], repr(given)))
    turns.append(_turn("\n".join(prompt), "user", repr(pair[0])))
    turns.append(_turn(_text(entry, pair[1]), "assistant", repr(pair[1])))
    used = {*pair, given, *HISTORIES, *ID_KEYS}
    return [with_beside(entry, reader, Draft(turns), used)]


def is_pair_list(entry: Any) -> bool:
    """Tell whether an object has a list of exchanges, each an object with both sides."""
    return isinstance(entry, dict) and _pair_list(entry) is not None


def _pair_list(entry: Mapping[str, Any]) -> str | None:
    """The key of the exchanges: under another name, pairs are records by themselves."""
    for key, value in entry.items():
        is_named = spelled(key) in (*LIST_KEYS, "rounds", "exchanges", "pairs")
        if is_named and isinstance(value, list) and value and isinstance(value[0], dict):
            pair = _keys_of(value[0])
            if pair and isinstance(value[0][pair[0]], str) and not is_message(value[0]):
                return key
    return None


def read_pair_list(entry: Any, reader: Reader) -> list[Draft]:
    """Read exchanges one after another; a system text stands beside or in the first of them."""
    key = _pair_list(entry)
    assert key is not None
    turns: list[DraftTurn] = []
    system = ""
    for number, exchange in enumerate(entry[key], start=1):
        where = f"{key} {number}"
        pair = _keys_of(exchange) if isinstance(exchange, dict) else None
        if pair is None:
            raise Invalid("wrong_layout", f"{where}: wanted both sides, {found(exchange)}")
        if _is_text(exchange.get("system")) and exchange["system"] != system:
            system = exchange["system"]
            turns.append(_turn(system, "system", where))
        turns.append(_turn(_text(exchange, pair[0]), "user", where))
        turns.append(_turn(_text(exchange, pair[1]), "assistant", where))
        weigh(turns[-2:], exchange, where)
        reader.leave(exchange, (*pair, "system", *FLAG_KEYS), f"{key}.")
    return [with_beside(entry, reader, Draft(turns), {key, *ID_KEYS})]


def is_prompt(entry: Any) -> bool:
    """Tell whether an object has a prompt and a completion of which one is a list of messages."""
    return isinstance(entry, dict) and _sides(entry) is not None


def _sides(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of prompt and completion."""
    for keys in _SIDES:
        sides = [entry.get(key) for key in keys]
        lists = [side for side in sides if isinstance(side, list)]
        if all(isinstance(side, list | str) for side in sides) and any(
            side and is_message(side[0]) for side in lists
        ):
            return keys
    return None


def read_prompt(entry: Any, reader: Reader) -> list[Draft]:
    """Read TRL's form, and OpenAI's Responses: only the completion is trained."""
    keys = _sides(entry)
    assert keys is not None
    turns = _side(entry, keys[0], "user", reader)
    for turn in turns:
        turn.weight = 0.0
    draft = Draft(turns + _side(entry, keys[1], "assistant", reader))
    if keys == _RESPONSES and "instructions" in entry:
        entry = {"system": entry["instructions"]} | {
            key: value for key, value in entry.items() if key != "instructions"
        }
    return [with_beside(entry, reader, draft, {*keys, *ID_KEYS})]


def _side(entry: Mapping[str, Any], key: str, role: Role, reader: Reader) -> list[DraftTurn]:
    if isinstance(entry[key], str):
        return [_turn(entry[key], role, repr(key))]
    return reader.turns(entry[key], key)


def is_persona(entry: Any) -> bool:
    """Tell whether an object has a persona and utterances with candidates."""
    if not isinstance(entry, dict) or not isinstance(entry.get("utterances"), list):
        return False
    return any(isinstance(one, dict) and "candidates" in one for one in entry["utterances"][:1])


def read_persona(entry: Any, reader: Reader) -> list[Draft]:
    """Read PersonaChat: the last history, then the last candidate; the persona is a system turn."""
    last = entry["utterances"][-1]
    history = last.get("history") if isinstance(last, dict) else None
    candidates = last.get("candidates") if isinstance(last, dict) else None
    if not isinstance(history, list) or not isinstance(candidates, list) or not candidates:
        raise Invalid("wrong_layout", "utterances: wanted 'history' and 'candidates', both lists")
    persona = entry.get("personality") or []
    if not isinstance(persona, list) or not all(isinstance(line, str) for line in persona):
        raise Invalid("wrong_layout", f"'personality': wanted a list of texts, {found(persona)}")
    turns: list[DraftTurn] = []
    if persona:
        lines = [checked(line, "'personality'") for line in persona]
        turns.append(DraftTurn("system", lines, role="system"))
    for number, text in enumerate([*history, candidates[-1]]):
        role: Role = "user" if number % 2 == 0 else "assistant"
        turns.append(_turn(text, role, f"history {number + 1}"))
    for utterance in entry["utterances"]:
        others = utterance.get("candidates") if isinstance(utterance, dict) else None
        if isinstance(others, list) and len(others) > 1:
            reader.passed_over["PersonaChat: candidates that are no reply"] += len(others) - 1
    return [with_beside(entry, reader, Draft(turns), {"utterances", "personality", *ID_KEYS})]


def _history(entry: Mapping[str, Any], reader: Reader) -> list[DraftTurn]:
    """Turns that are context: pairs of texts, or messages."""
    key = next((key for key in HISTORIES if entry.get(key)), HISTORIES[0])
    history = entry.get(key) or []
    if isinstance(history, list) and history and all(map(is_message, history)):
        turns = reader.turns(history, "history")
    elif isinstance(history, list) and all(
        isinstance(past, list) and len(past) == 2 for past in history
    ):
        turns = []
        for number, past in enumerate(history, start=1):
            turns.append(_turn(past[0], "user", f"history {number}"))
            turns.append(_turn(past[1], "assistant", f"history {number}"))
    else:
        raise Invalid("wrong_layout", f"{key!r}: wanted a list of pairs, {found(history)}")
    for turn in turns:
        turn.weight = 0.0
    return turns


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(entry: Mapping[str, Any], key: str) -> str:
    if entry[key] is None:
        raise Invalid("no_text", f"{key!r}: wanted text, found nothing")
    if not isinstance(entry[key], str):
        raise Invalid("not_text", f"{key!r}: wanted text, {found(entry[key])}")
    return checked(entry[key], repr(key))


def _turn(text: Any, role: Role, where: str) -> DraftTurn:
    if not isinstance(text, str):
        raise Invalid("not_text", f"{where}: wanted text, {found(text)}")
    return DraftTurn(role, [checked(text, where)], role=role)
