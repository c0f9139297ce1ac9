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


def chat_before(template: Template, dialogue: Dialogue, number: int) -> ServedChat | None:
    """Return what a client sends to have turn ``number`` written; None if it cannot ask for it."""
    asked, turns = dialogue.turns[number], dialogue.turns[:number]
    if isinstance(template, ChatTemplate):
        return ServedChat(
            messages=template.messages(dialogue)[:number],
            tools=tools_of(dialogue),
            settings=template.settings,
        )
    if template.has_roles:
        if asked.role != "assistant":
            return None  # whoever is asked by name, the assistant answers
        return ServedChat(messages=[_of_role(turn) for turn in turns])
    return ServedChat(messages=_of_people(turns, asked.speaker))


def served_chat(template: Template, dialogue: Dialogue, number: int) -> ServedChat | None:
    """Return what asks for turn ``number`` by the very ids that were trained before it.

    Returns:
        None where the tokenizer's own chat template cannot be asked for that turn: it refuses the
        messages, would have another speaker answer, or reads a text as a special token.
    """
    chat = chat_before(template, dialogue, number)
    if chat is None or not chat.messages:
        return None
    tokenizer = template.tokenizer
    try:
        text = SandboxedTemplate(tokenizer, chat.settings)(chat.messages, chat.tools, asks=True)
        prompt = template.read(dialogue).after(range(number), number).prompt
    except NotEncodableError:
        return None
    return chat if ServedText(tokenizer).whole(text) == prompt else None


def _of_role(turn: Turn) -> Message:
    message: Message = {"role": turn.role or "user", "content": turn.text}
    return message | ({"name": turn.speaker} if turn.speaker != turn.role else {})


def _of_people(turns: Sequence[Turn], answers: str) -> list[Message]:
    """The one who answers is the assistant, the first other the user; more have numbers for names.

    Names are people's own, and a chat template tells them apart by any.
    """
    others = [name for name in dict.fromkeys(turn.speaker for turn in turns) if name != answers]
    messages: list[Message] = []
    for turn in turns:
        message: Message = {"role": "user", "content": turn.text}
        if turn.speaker == answers:
            message["role"] = "assistant"
        elif place := others.index(turn.speaker):
            message["name"] = f"user {place + 1}"
        messages.append(message)
    return messages
