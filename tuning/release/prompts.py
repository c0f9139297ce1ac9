"""Prompts: the messages that a client sends for a dialogue's trained turns, and their token ids.

The ids are those that a model reads in training; every engine should be fed the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuning.dialogue import Dialogue, trained_turns
from tuning.release.served_chat import chat_before
from tuning.tokens.messages import Message
from tuning.tokens.template import Template
from tuning.tokens.templates import is_encodable
from tuning.tokens.tokenizer import special_ids

NUM_DIALOGUES = 100
"""The first of a file, but for ``NUM_OF_KIND``."""
NUM_OF_KIND = 10
"""Dialogues of a kind (with a system text, tools, calls, thoughts, three people) that are taken,
wherever they stand."""
NUM_TURNS = 20
"""Trained turns of a dialogue that are asked for, from its first."""

_KINDS: tuple[Callable[[Dialogue], bool], ...] = (
    lambda dialogue: dialogue.turns[0].role == "system",
    lambda dialogue: bool(dialogue.tools),
    lambda dialogue: any(turn.tool_calls for turn in dialogue.turns),
    lambda dialogue: any(turn.reasoning for turn in dialogue.turns),
    lambda dialogue: len(dialogue.people) > 2,
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A trained turn as a client asks for it."""

    dialogue_id: str
    turn: int
    """From 1."""
    body: dict[str, Any]
    """Of a chat completion: ``messages``, and maybe ``tools`` and ``chat_template_kwargs``."""
    ids: list[int]
    """What a model reads of it in training."""
    is_plain: bool
    """Whether no text spells a special token, which every engine would read as such."""


def sample_of(dialogues: Iterable[Dialogue]) -> list[Dialogue]:
    """Take the first dialogues, and the first of each kind, in their order."""
    taken: list[Dialogue] = []
    num_of_kind: Counter[int] = Counter()
    for number, dialogue in enumerate(dialogues):
        kinds = [kind for kind, is_so in enumerate(_KINDS) if is_so(dialogue)]
        if number < NUM_DIALOGUES or any(num_of_kind[kind] < NUM_OF_KIND for kind in kinds):
            taken.append(dialogue)
            num_of_kind.update(kinds)
    return taken


def prompts_of(
    template: Template, dialogue: Dialogue, loss_on: str | Sequence[str]
) -> Iterator[Prompt]:
    """Yield the prompts of a dialogue's trained turns, as far as clients can ask for them."""
    loss_on = dialogue.loss_on or loss_on
    if not is_encodable(template, dialogue, loss_on=loss_on):
        return
    special = template.tokenizer.convert_ids_to_tokens(special_ids(template.tokenizer))
    reading = template.read(dialogue)
    trained = [n for n, one in enumerate(trained_turns(dialogue.turns, loss_on)) if one]
    for number in trained[:NUM_TURNS]:
        chat = chat_before(template, dialogue, number)
        if chat is None or not chat.messages:
            continue
        body: dict[str, Any] = {"messages": list(map(_as_sent, chat.messages))}
        body |= {"tools": chat.tools} if chat.tools else {}
        body |= {"chat_template_kwargs": chat.settings} if chat.settings else {}
        yield Prompt(
            dialogue_id=dialogue.dialogue_id,
            turn=number + 1,
            body=body,
            ids=reading.after(range(number), number).prompt,
            is_plain=not any(
                one in turn.text for turn in dialogue.turns[:number] for one in special
            ),
        )


def _as_sent(message: Message) -> Message:
    """Write the arguments of calls as text, as the chat-completions convention has them."""
    if "tool_calls" not in message:
        return message
    calls = [
        call
        | {"function": call["function"] | {"arguments": _as_text(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
