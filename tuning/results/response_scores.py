"""Nats of every response of the evaluation set, under whatever model predicts them.

A response is any trained turn but a dialogue's first. Its content is its text without speaker tag
and end of turn. Sums run over the whole set and are divided once; never a mean of means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.dialogue import ROLES, Dialogue, Role
from tuning.results.curves import Curve, curve_of
from tuning.results.dialogue_table import FloatArray, IntArray

MAX_SPEAKERS = 4
"""Speakers that ``by_speaker`` tells apart; few dialogues have more."""


@dataclass(frozen=True)
class ResponseScores:
    """Per response, in the order of the dialogues and their turns (R responses)."""

    dialogue: IntArray
    """``[R]`` Index of the dialogue in the evaluation set."""
    turn: IntArray
    """``[R]`` Index of the turn in its dialogue, from 1."""
    speaker: IntArray
    """``[R]`` Index of who speaks, by order of first appearance in the dialogue."""
    role: IntArray
    """``[R]`` Index of the role in ``ROLES``; -1 for a person."""
    content_nll: FloatArray
    """``[R]`` Nats, summed over content tokens."""
    end_nll: FloatArray
    """``[R]`` Nats of the end of turn; 0 where the response is cut."""
    num_tokens: IntArray
    """``[R]`` Content tokens, in this model's tokenizer."""
    num_words: IntArray
    """``[R]`` Words of the content, as white space separates them."""
    num_bytes: IntArray
    """``[R]`` Content bytes in UTF-8; the same for every tokenizer, as are the words."""
    num_ends: IntArray
    """``[R]`` 1, or 0 for a response that is cut: its end is not scored."""


def make_scores(
    dialogues: Sequence[Dialogue],
    *,
    content_nll: Sequence[float],
    end_nll: Sequence[float],
    num_tokens: Sequence[int],
) -> ResponseScores:
    """Put what a model says of the responses ``[R]`` beside what the text says of them."""
    places = list(responses(dialogues))
    texts = [dialogues[d].turns[t].text for d, t in places]
    speakers = [dialogue.speakers for dialogue in dialogues]
    return ResponseScores(
        dialogue=np.array([d for d, _ in places]),
        turn=np.array([t for _, t in places]),
        speaker=np.array([speakers[d].index(dialogues[d].turns[t].speaker) for d, t in places]),
        role=np.array([_role_index(dialogues[d].turns[t].role) for d, t in places]),
        content_nll=np.array(content_nll),
        end_nll=np.array(end_nll),
        num_tokens=np.array(num_tokens),
        num_words=np.array([len(text.split()) for text in texts]),
        num_bytes=np.array([len(text.encode()) for text in texts]),
        num_ends=np.array([int(not dialogues[d].turns[t].is_cut) for d, t in places]),
    )


def _role_index(role: Role | None) -> int:
    return -1 if role is None else ROLES.index(role)


def responses(dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, int]]:
    """Indices of dialogue and turn of every response, in order."""
    for dialogue_index, dialogue in enumerate(dialogues):
        for turn_index in dialogue.responses:
            yield dialogue_index, turn_index


ROUNDING = "bits_per_byte_rounding"
"""What weights of fewer bits than float32 change in bits per byte, on the dialogues below."""
NUM_ROUNDED = 8
"""The number of dialogues, the first ones of the evaluation set, on which that is measured."""


def bits_per_byte(content_nll: FloatArray, num_bytes: IntArray) -> float:
    """Bits of content per UTF-8 byte: comparable between models with different tokenizers."""
    return float(content_nll.sum() / (math.log(2) * num_bytes.sum()))


def by_turn(scores: ResponseScores, num_dialogues: int) -> Curve:
    """Bits per byte at every turn index, over all dialogues that reach it."""
    bits = scores.content_nll / math.log(2)
    return curve_of(scores.turn, scores.dialogue, bits, scores.num_bytes, num_dialogues)


def by_speaker(scores: ResponseScores, num_dialogues: int) -> dict[str, float]:
    """Bits per byte of the responses of each role, and of the first ``MAX_SPEAKERS`` people.

    Roles have their names; a person is ``speaker1``, ``speaker2`` and so on, by first appearance.
    """
    names = [*ROLES, *(f"speaker{number + 1}" for number in range(MAX_SPEAKERS))]
    index = np.where(scores.role < 0, len(ROLES) + scores.speaker, scores.role)
    bits = scores.content_nll / math.log(2)
    curve = curve_of(index, scores.dialogue, bits, scores.num_bytes, num_dialogues)
    return {names[one]: value for one, value in curve.values().items() if one < len(names)}
