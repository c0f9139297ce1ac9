"""A turn as a user of the model asks for it: what goes into ``apply_chat_template``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuning.dialogue import Dialogue, Turn
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.messages import Message, tools_of
from tuning.tokens.sandbox import SandboxedTemplate, Setting
from tuning.tokens.served_text import ServedText
from tuning.tokens.template import NotEncodableError, Template


@dataclass(frozen=True, kw_only=True)
class ServedChat:
    """The messages before a turn, and what else the chat template is given."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    """The functions that the assistant may call."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Variables of the template."""


def served_chat(template: Template, dialogue: Dialogue, number: int) -> ServedChat | None:
    """Return what asks for turn ``number`` by the very ids that were trained before it.

    Returns:
        None where the tokenizer's own chat template cannot be asked for that turn: it refuses the
        messages, would have another speaker answer, or reads a text as a special token.
    """
    if isinstance(template, ChatTemplate):
        chat = ServedChat(
            messages=template.messages(dialogue)[:number],
            tools=tools_of(dialogue),
            settings=template.settings,
        )
    else:
        chat = ServedChat(messages=_as_speakers(dialogue.turns, number, template.has_roles))
    tokenizer = template.tokenizer
    try:
        text = SandboxedTemplate(tokenizer, chat.settings)(chat.messages, chat.tools, asks=True)
        prompt = template.read(dialogue).after(range(number), number).prompt
    except NotEncodableError:
        return None
    return chat if ServedText(tokenizer).whole(text) == prompt else None


def _as_speakers(turns: Sequence[Turn], number: int, has_roles: bool) -> list[Message]:
    """Two people are user and assistant, who answers; more have numbers for names."""
    people = dict.fromkeys(turn.speaker for turn in turns[: number + 1] if turn.role is None)
    numbers = {name: f"speaker {count}" for count, name in enumerate(people, start=1)}
    answers = turns[number].speaker
    messages: list[Message] = []
    for turn in turns[:number]:
        message: Message = {"role": turn.role or "user", "content": turn.text}
        if turn.role is None and len(people) <= 2 and not has_roles:
            message["role"] = "assistant" if turn.speaker == answers else "user"
        elif turn.role is None:
            message["name"] = numbers[turn.speaker]
        elif turn.speaker != turn.role:
            message["name"] = turn.speaker
        messages.append(message)
    return messages
