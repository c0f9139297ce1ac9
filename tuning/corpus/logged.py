"""Logs of requests to a model, each with its response: OpenAI's batches, proxies' records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.corpus.beside import ID_KEYS, with_beside
from tuning.corpus.drafts import Draft
from tuning.corpus.message_shapes import is_message
from tuning.corpus.messages import Reader


def is_logged(entry: Any) -> bool:
    """Tell whether an object holds a request's messages and the choices of the response."""
    return isinstance(entry, dict) and _choices(entry) is not None


def _request(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What holds the messages: the object itself, or its request or body."""
    for key in ("request", "body"):
        if isinstance(entry.get(key), dict):
            return _request(entry[key])
    return entry


def _choices(entry: Mapping[str, Any]) -> list[Any] | None:
    response = entry.get("response", entry)
    if isinstance(response, dict) and isinstance(response.get("body"), dict):
        response = response["body"]
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    messages = _request(entry).get("messages")
    is_asked = isinstance(messages, list) and bool(messages) and is_message(messages[0])
    return choices if is_asked and is_message(choices[0].get("message")) else None


def read_logged(entry: Any, reader: Reader) -> list[Draft]:
    """Read the request's messages as context, and the response's first choice, which is trained."""
    choices = _choices(entry)
    assert choices is not None
    request = _request(entry)
    turns = reader.turns([*request["messages"], choices[0]["message"]], "message")
    for turn in turns[:-1]:
        turn.weight = 0.0
    if len(choices) > 1:
        reader.passed_over["OpenAI: other choices"] += len(choices) - 1
    draft = with_beside(request, reader, Draft(turns), {"messages", "choices", *ID_KEYS})
    if request is not entry:
        reader.leave(entry, {"request", "body", "response", "choices", "custom_id", *ID_KEYS})
    draft.dialogue_id = entry.get("custom_id") if isinstance(entry.get("custom_id"), str) else None
    return [draft]
