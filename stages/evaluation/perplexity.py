"""What a model makes of the responses of the evaluation set: one causal pass per dialogue."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import EncodedTurn, Template
from stages.evaluation.response_scores import ResponseScores, make_scores
from stages.evaluation.scoring import TokenSequence, token_nll


def score_responses(
    model: PreTrainedModel,
    template: Template,
    dialogues: Sequence[Dialogue],
    *,
    batch_size: int,
    with_history: bool = True,
) -> ResponseScores:
    """Score every response once, in one causal pass per dialogue.

    Without history each response stands alone after its own speaker's tag.
    """
    sequences: list[TokenSequence] = []
    spans: list[tuple[int, slice, slice]] = []
    for dialogue_index, dialogue in enumerate(dialogues):
        sequence = TokenSequence()
        position = 0
        for turn_index, turn in enumerate(template.encode(dialogue)):
            if not with_history:
                position = 0
            if with_history or turn_index > 0:
                segment = 1 if with_history else turn_index
                content, end = append_turn(sequence, turn, segment=segment, first_position=position)
                if turn_index > 0:
                    spans.append((dialogue_index, content, end))
            position += len(turn)
        sequences.append(sequence)
    nll = token_nll(model, sequences, batch_size=batch_size)
    return make_scores(
        dialogues,
        content_nll=[nll[d][content].sum() for d, content, _ in spans],
        end_nll=[nll[d][end].sum() for d, _, end in spans],
        num_tokens=[content.stop - content.start for _, content, _ in spans],
    )


def append_turn(
    sequence: TokenSequence, turn: EncodedTurn, *, segment: int, first_position: int
) -> tuple[slice, slice]:
    """Add a turn; return where its content and its end of turn are."""
    sequence.append(turn.tag, segment=segment, first_position=first_position)
    first_position += len(turn.tag)
    content = sequence.append(turn.content, segment=segment, first_position=first_position)
    first_position += len(turn.content)
    return content, sequence.append(turn.end, segment=segment, first_position=first_position)
