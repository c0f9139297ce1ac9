"""Bits per byte of further evaluation sets: texts as they are, dialogues as the others are."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from tuning.results.dialogue_table import Column, FloatArray
from tuning.run.errors import UserError
from tuning.scoring.also_sets import AlsoSet
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, together
from tuning.scoring.perplexity import response_findings, score_responses
from tuning.scoring.plain_text import WINDOW_TOKENS, rolling_nll
from tuning.tokens.template import Template
from tuning.tokens.templates import is_encodable
from tuning.tokens.texts import gives_back

Columns = dict[str, Column]


def measure_also(subject: Subject) -> Scoring[Findings]:
    """Score each set; its sums are of its own texts or dialogues."""
    found = yield from together([_of_set(subject, one) for one in subject.also])
    return Findings(
        also={one.name: columns for one, columns in zip(subject.also, found, strict=True)}
    )


def _of_set(
    subject: Subject, one: AlsoSet
) -> Generator[list[TokenSequence], list[FloatArray], Columns]:
    if one.dialogues:
        scores = yield from score_responses(subject.template, one.dialogues)
        return response_findings(subject.name, scores, None, len(one.dialogues)).columns
    max_length = min(WINDOW_TOKENS, subject.num_visible - 1)
    nll = yield from rolling_nll(subject.template.tokenizer, one.texts, max_length=max_length)
    return {
        "num_bytes": np.array([len(text.encode()) for text in one.texts]),
        f"{subject.name}_content_nll": nll,
    }


def raise_if_changed(
    template: Template, sets: Sequence[AlsoSet], loss_on: str | Sequence[str]
) -> None:
    """Raise ``UserError`` if a text would be scored as another than it is."""
    for one in sets:
        for number, dialogue in enumerate(one.all_dialogues, 1):
            same = gives_back(template.tokenizer, dialogue)
            if not same or (
                one.dialogues and not is_encodable(template, dialogue, loss_on=loss_on)
            ):
                raise UserError(
                    f"score.also: {one.name}: the model's tokenizer or template changes number "
                    f"{number}; take it out of the set, or the set out of score.also."
                )
