"""What a model makes of the responses of the evaluation set."""

from __future__ import annotations

from collections.abc import Sequence

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import EncodedTurn, Template
from stages.evaluation.response_scores import ResponseScores, make_scores
from stages.evaluation.scoring import Scoring, TokenSequence


def score_responses(
    template: Template, dialogues: Sequence[Dialogue], *, with_history: bool = True
) -> Scoring[ResponseScores]:
    """Score every response once, in one causal pass per dialogue.

    Without history each response stands alone after its own speaker's tag.
    """
    sequences: list[TokenSequence] = []
    spans: list[tuple[int, slice, slice]] = []
    for dialogue in dialogues:
        for number, turn in enumerate(template.encode(dialogue)):
            if number == 0 or not with_history:
                sequences.append(TokenSequence())
            content, end = append_turn(sequences[-1], turn, scored=number > 0)
            if number > 0:
                spans.append((len(sequences) - 1, content, end))
    nll = yield sequences
    return make_scores(
        dialogues,
        content_nll=[nll[number][content].sum() for number, content, _ in spans],
        end_nll=[nll[number][end].sum() for number, _, end in spans],
        num_tokens=[content.stop - content.start for _, content, _ in spans],
    )


def append_turn(sequence: TokenSequence, turn: EncodedTurn, *, scored: bool) -> tuple[slice, slice]:
    """Add a turn; return where its content and its end are, which are scored or not."""
    sequence.append(turn.tag, scored=False)
    content = sequence.append(turn.content, scored=scored)
    return content, sequence.append(turn.end, scored=scored)
