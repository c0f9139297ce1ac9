"""How well a model predicts the responses of the evaluation set.

A response is any turn but a dialogue's first. Its content is its text without speaker tag and end
of turn. Sums run over the whole set and are divided once; never a mean of means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import EncodedTurn, Template
from stages.evaluation.scoring import FloatArray, TokenSequence, token_nll

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ResponseScores:
    """Per response, in the order of the dialogues and their turns (R responses)."""

    dialogue: IntArray
    """``[R]`` Index of the dialogue in the evaluation set."""
    turn: IntArray
    """``[R]`` Index of the turn in its dialogue, from 1."""
    content_nll: FloatArray
    """``[R]`` Nats, summed over content tokens."""
    end_nll: FloatArray
    """``[R]`` Nats of the end of turn."""
    num_tokens: IntArray
    """``[R]`` Content tokens, in this model's tokenizer."""
    num_bytes: IntArray
    """``[R]`` Content bytes in UTF-8; the same for every tokenizer."""


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
    spans: list[tuple[int, int, slice, slice]] = []
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
                    spans.append((dialogue_index, turn_index, content, end))
            position += len(turn)
        sequences.append(sequence)
    nll = token_nll(model, sequences, batch_size=batch_size)
    return ResponseScores(
        dialogue=np.array([dialogue for dialogue, _, _, _ in spans]),
        turn=np.array([turn for _, turn, _, _ in spans]),
        content_nll=np.array([nll[d][content].sum() for d, _, content, _ in spans]),
        end_nll=np.array([nll[d][end].sum() for d, _, _, end in spans]),
        num_tokens=np.array([content.stop - content.start for _, _, content, _ in spans]),
        num_bytes=np.array([len(dialogues[d].turns[t].utterance.encode()) for d, t, _, _ in spans]),
    )


def append_turn(
    sequence: TokenSequence, turn: EncodedTurn, *, segment: int, first_position: int
) -> tuple[slice, slice]:
    """Add a turn; return where its content and its end of turn are."""
    place = {"segment": segment}
    sequence.append(turn.tag, first_position=first_position, **place)
    first_position += len(turn.tag)
    content = sequence.append(turn.content, first_position=first_position, **place)
    first_position += len(turn.content)
    return content, sequence.append(turn.end, first_position=first_position, **place)


def bits_per_byte(content_nll: FloatArray, num_bytes: IntArray) -> float:
    """Bits of content per UTF-8 byte: comparable between models with different tokenizers."""
    return float(content_nll.sum() / (math.log(2) * num_bytes.sum()))


def summarise(scores: ResponseScores) -> dict[str, float]:
    """The headline numbers of one model.

    ``perplexity = exp(Σ (content + end of turn nats) / Σ (content tokens + 1))``,
    comparable only between models with one tokenizer and template.
    """
    num_targets = int(scores.num_tokens.sum()) + len(scores.turn)
    return {
        "bits_per_byte": bits_per_byte(scores.content_nll, scores.num_bytes),
        "perplexity": math.exp((scores.content_nll.sum() + scores.end_nll.sum()) / num_targets),
        "end_of_turn_nll": float(scores.end_nll.mean()),
        "num_target_tokens": num_targets,
    }


def by_turn(scores: ResponseScores) -> dict[int, float]:
    """Bits per byte at every turn index, over all dialogues that reach it."""
    return {
        int(turn): bits_per_byte(
            scores.content_nll[scores.turn == turn], scores.num_bytes[scores.turn == turn]
        )
        for turn in np.unique(scores.turn)
    }
