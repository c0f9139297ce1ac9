"""The model card's example: a validation dialogue that is short and holds no private data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tuning.corpus.private_data import has_any
from tuning.dialogue import Dialogue, trained_turns
from tuning.evaluation_set.places import Response
from tuning.release.served_chat import ServedChat, served_chat
from tuning.tokens.template import Template
from tuning.tokens.templates import is_encodable

MAX_CHARACTERS = 1000
"""Of messages, answers and tools together: what a reader of a card takes in."""
NUM_SEARCHED = 1000
"""Validation dialogues, from the first, among which one is sought."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A chat with the model, and the answers to it."""

    chat: ServedChat
    answer: str
    """The data's own."""
    written: str | None
    """The fine-tuned model's likeliest, where it was asked for one."""


def choose_example(
    validation: Iterable[Dialogue],
    written: Sequence[Response],
    template: Template,
    *,
    loss_on: str | Sequence[str],
    region: str | None,
) -> Example | None:
    """Return the shortest chat before a trained turn that the model takes as it was trained.

    One with a system text goes first, then one that the model has answered. Every text is looked
    through for private data, whatever ``data.redact`` is: cards are passed on.

    Args:
        validation: Dialogues that were not trained on.
        written: What the fine-tuned model wrote in places of them.
        template: The model's.
        loss_on: Which turns are trained, where a dialogue's source does not say so.
        region: Of phone numbers without a country's code.
    """
    answers = {(one.context, one.reference): one.text for one in written}
    found: list[tuple[tuple[bool, bool, int], Dialogue, int, str | None]] = []
    for dialogue in islice(validation, NUM_SEARCHED):
        texts = tuple(turn.text for turn in dialogue.turns)
        trained = trained_turns(dialogue.turns, dialogue.loss_on or loss_on)
        size = len(dialogue.tools)
        for number, turn in enumerate(dialogue.turns):
            answer = answers.get((texts[:number], texts[number]))
            size += len(turn.reasoning) + len(turn.text)
            shown = size + len(answer or "")
            if number and trained[number] and shown <= MAX_CHARACTERS:
                lacks_system = all(one.role != "system" for one in dialogue.turns[:number])
                found.append(((lacks_system, answer is None, shown), dialogue, number, answer))
    for _, dialogue, number, answer in sorted(found, key=lambda one: one[0]):
        answered = dialogue.turns[number].saying(answer or "")
        if has_any(replace(dialogue, turns=(*dialogue.turns, answered)), region):
            continue
        if not is_encodable(template, dialogue, loss_on=loss_on):
            continue
        if chat := served_chat(template, dialogue, number):
            return Example(chat=chat, answer=dialogue.turns[number].text, written=answer)
    return None
