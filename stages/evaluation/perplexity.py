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
            if number == 0 and not with_history:
                continue  # nothing of it is scored
            if number == 0 or not with_history:
                sequences.append(TokenSequence())
            sequences[-1].append(turn.tag, scored=False)
            content = sequences[-1].append(turn.content, scored=number > 0)
            end = sequences[-1].append(turn.end, scored=number > 0)
            if number > 0:
                spans.append((len(sequences) - 1, content, end))
    nll = yield sequences
    return make_scores(
        dialogues,
        content_nll=[nll[number][content].sum() for number, content, _ in spans],
        end_nll=[nll[number][end].sum() for number, _, end in spans],
        num_tokens=[content.stop - content.start for _, content, _ in spans],
    )


def last_turn(turns: Sequence[EncodedTurn]) -> TokenSequence:
    """The last turn's content, to be scored after its tag and the turns before."""
    *before, last = turns
    context = [token for turn in before for token in turn.ids]
    return TokenSequence.after([*context, *last.tag], last.content)
