"""What a model makes of the responses of the evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import EncodedTurn, Template
from stages.evaluation.response_scores import ResponseScores, make_scores
from stages.evaluation.scoring import Scoring, TokenSequence, sums


def score_responses(
    template: Template, dialogues: Sequence[Dialogue], *, with_history: bool = True
) -> Scoring[ResponseScores]:
    """Score every response once, in one causal pass per dialogue.

    Without history each response stands alone after its own speaker's tag.
    """
    sequences: list[TokenSequence] = []
    spans: list[tuple[int, slice, slice]] = []
    lasts: dict[int, TokenSequence] = {}  # of contents that are joined with their end, by response
    num_tokens: list[int] = []
    for dialogue in dialogues:
        for number, turn in enumerate(template.encode(dialogue)):
            if number == 0 and not with_history:
                continue  # nothing of it is scored
            if number == 0 or not with_history:
                sequences.append(TokenSequence())
                sequences[-1].append(template.start, scored=False)
            own = turn.content if turn.joined is None else turn.content[:-1]
            sequence = sequences[-1]
            sequence.append(turn.tag, scored=False)
            content = sequence.append(own, scored=number > 0)
            end = sequence.append(turn.ids[len(turn.tag) + len(own) :], scored=number > 0)
            if number == 0:
                continue
            if turn.joined is not None:
                last = TokenSequence.after(sequence.ids[: end.start], turn.content[-1:])
                lasts[len(spans)] = replace(last, or_last=turn.joined)
            spans.append((len(sequences) - 1, content, end))
            num_tokens.append(len(turn.content))
    nll = yield [*sequences, *lasts.values()]
    last_nll = np.zeros(len(spans))
    last_nll[list(lasts)] = sums(nll[len(sequences) :])
    return make_scores(
        dialogues,
        content_nll=[nll[number][content].sum() for number, content, _ in spans] + last_nll,
        end_nll=[nll[number][end].sum() for number, _, end in spans] - last_nll,
        num_tokens=num_tokens,
    )


def last_turn(template: Template, turns: Sequence[EncodedTurn]) -> TokenSequence:
    """The last turn's content, to be scored after its tag and the turns before."""
    *before, last = turns
    context = [*template.start, *(token for turn in before for token in turn.ids)]
    sequence = TokenSequence.after([*context, *last.tag], last.content)
    return replace(sequence, or_last=last.joined)
