"""A dialogue as the messages of the chat-completions convention, which chat templates take.

Source: https://huggingface.co/docs/transformers/chat_templating and its page on tools.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from tuning.dialogue import Dialogue, Turn
from tuning.tokens.template import NotEncodableError

Message = dict[str, Any]
"""``role`` and ``content``, and what else there is: ``name``, ``reasoning_content``,
``tool_calls``, ``tool_call_id``."""


_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
NUM_ID = 9
"""Characters of a short id."""


@dataclass(frozen=True, slots=True)
class CallForm:
    """The form in which a template takes the calls of tools."""

    as_text: bool = False
    """Arguments are JSON text, and no content stands beside calls, as in the OpenAI API; else they
    are objects, as most templates want them."""
    short_ids: bool = False
    """Ids have nine letters or digits, as Mistral's templates insist."""


def messages_of(dialogue: Dialogue, form: CallForm) -> list[Message]:
    """Return a message per turn.

    A call without an id gets one, and a tool's answer without one gets that of its call.

    Raises:
        NotEncodableError: a turn has no role.
    """
    messages: list[Message] = []
    waiting: list[str] = []
    for turn in dialogue.turns:
        message = _message(turn, form)
        if turn.tool_calls:
            waiting = [call["id"] for call in message["tool_calls"]]
        if turn.role == "tool":
            own = _call_id(turn.tool_call_id, form) if turn.tool_call_id else None
            message["tool_call_id"] = own or (waiting[0] if waiting else _call_id("0", form))
            waiting = [one for one in waiting if one != message["tool_call_id"]]
        messages.append(message)
    return messages


def with_thoughts_apart(dialogue: Dialogue) -> Dialogue:
    """Return a dialogue in which a thought that begins an answer (``<think>``) stands beside it."""
    return replace(dialogue, turns=tuple(map(_thought_apart, dialogue.turns)))


def _thought_apart(turn: Turn) -> Turn:
    found = _THOUGHT.match(turn.utterance)
    if found is None or turn.role != "assistant" or turn.reasoning:
        return turn
    return replace(turn, reasoning=found[1].strip(), utterance=turn.utterance[found.end() :])


def tools_of(dialogue: Dialogue) -> list[dict[str, Any]] | None:
    """Return the functions that an assistant may call, or None.

    A description that stands alone gets the ``type`` and ``function`` that templates look for.
    """
    if not dialogue.tools:
        return None
    tools = json.loads(dialogue.tools)
    return [
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
        for tool in tools
    ]


def _message(turn: Turn, form: CallForm) -> Message:
    if turn.role is None:
        raise NotEncodableError(
            f"{turn.speaker!r} has no role, and a chat template takes roles alone (data.roles says "
            "which one a name stands for)"
        )
    message: Message = {"role": turn.role, "content": turn.utterance}
    if turn.speaker != turn.role:
        message["name"] = turn.speaker
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        if form.as_text and not turn.utterance:
            message["content"] = None
        message["tool_calls"] = [
            {
                "id": _call_id(call.call_id or f"call{number:05}", form),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if form.as_text else json.loads(call.arguments),
                },
            }
            for number, call in enumerate(turn.tool_calls)
        ]
    return message


def _call_id(given: str, form: CallForm) -> str:
    if not form.short_ids or (len(given) == NUM_ID and given.isalnum() and given.isascii()):
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:NUM_ID]
