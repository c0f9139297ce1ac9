"""Context retention: how much the history helps a model to predict a response."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import EncodedTurn, Template
from stages.evaluation.curves import Curve, IntArray, curve_of
from stages.evaluation.evaluation_set import text_sha256
from stages.evaluation.perplexity import append_turn
from stages.evaluation.response_scores import bits_per_byte
from stages.evaluation.scoring import FloatArray, Scoring, TokenSequence

HISTORY_TURNS = (0, 1, 2, 4, 8)
"""How many of the last turns a response is scored after."""


@dataclass(frozen=True)
class HistoryScores:
    """Nats of the same R responses after more and more of their last turns."""

    dialogue: IntArray
    """``[R]`` Index of the dialogue in the evaluation set."""
    turn: IntArray
    """``[R]`` Index of the turn in its dialogue, from 1."""
    num_bytes: IntArray
    """``[R]`` Content bytes in UTF-8."""
    nll: FloatArray
    """``[R, K]`` After the last ``HISTORY_TURNS[k]`` turns, or all if there are fewer."""
    shuffled_nll: FloatArray
    """``[R]`` After the turns of the last column, in another order."""


def score_histories(
    template: Template, dialogues: Sequence[Dialogue], *, num_responses: int
) -> Scoring[HistoryScores]:
    """Score responses after their last 0, 1, 2, 4 and 8 turns, and after those 8 shuffled.

    Whole dialogues are taken in order of a hash of their text, until they hold ``num_responses``.
    A pass that starts at turn s scores turn s + k after exactly its last k turns, so one pass per
    turn serves every k.
    """
    chosen: list[tuple[int, int]] = []  # dialogue, turn
    for index in sorted(range(len(dialogues)), key=lambda i: text_sha256([dialogues[i]])):
        if len(chosen) >= num_responses:
            break
        chosen += [(index, turn) for turn in range(1, len(dialogues[index].turns))]
    encoded = {index: template.encode(dialogues[index]) for index, _ in chosen}

    sequences: list[TokenSequence] = []
    places: dict[tuple[int, int, int], tuple[int, slice]] = {}  # dialogue, first turn, turn
    for index, turns in encoded.items():
        for first in range(len(turns)):
            scored = _scored_turns(first, len(turns))
            window = range(first, scored[-1] + 1)
            sequence, contents = _lay_out([turns[i] for i in window], [i in scored for i in window])
            for turn, content in zip(scored, contents, strict=True):
                places[index, first, turn] = (len(sequences), content)
            sequences.append(sequence)
    shuffled: list[tuple[int, slice]] = []
    for index, turn in chosen:
        order = _other_order(dialogues[index], turn)
        sequence, contents = _lay_out(
            [encoded[index][i] for i in (*order, turn)], [*(False for _ in order), True]
        )
        shuffled.append((len(sequences), contents[0]))
        sequences.append(sequence)
    nll = yield sequences

    table = np.empty((len(chosen), len(HISTORY_TURNS)))
    for row, (index, turn) in enumerate(chosen):
        for column, k in enumerate(HISTORY_TURNS):
            number, content = places[index, max(0, turn - k), turn]
            table[row, column] = nll[number][content].sum()
    return HistoryScores(
        dialogue=np.array([index for index, _ in chosen], dtype=np.int64),
        turn=np.array([turn for _, turn in chosen], dtype=np.int64),
        num_bytes=np.array(
            [len(dialogues[index].turns[turn].utterance.encode()) for index, turn in chosen],
            dtype=np.int64,
        ),
        nll=table,
        shuffled_nll=np.array([nll[number][content].sum() for number, content in shuffled]),
    )


def history_gain_by_turns(scores: HistoryScores, num_dialogues: int) -> Curve:
    """``history_gain`` for k = 0, 1, 2, 4, 8 last turns, on the same responses for every k.

    Σ [NLL(r | nothing) − NLL(r | last k turns)] / (ln 2 · Σ bytes); 0 for k = 0 by definition.
    """
    num_responses, num_columns = scores.nll.shape
    return curve_of(
        np.repeat(HISTORY_TURNS, num_responses),
        np.tile(scores.dialogue, num_columns),
        ((scores.nll[:, :1] - scores.nll) / math.log(2)).T.ravel(),
        np.tile(scores.num_bytes, num_columns),
        num_dialogues,
    )


def shuffled_history_gain(scores: HistoryScores) -> float:
    """The gain of the last 8 turns in another order: below the true order's if order matters."""
    return bits_per_byte(scores.nll[:, 0] - scores.shuffled_nll, scores.num_bytes)


def _scored_turns(first: int, num_turns: int) -> list[int]:
    """What a pass from a turn on scores; from a dialogue's first, all that have fewer before."""
    if first == 0:
        return list(range(1, min(num_turns, HISTORY_TURNS[-1] + 1)))
    return [first + k for k in HISTORY_TURNS if first + k < num_turns]


def _lay_out(
    turns: Sequence[EncodedTurn], scored: Sequence[bool]
) -> tuple[TokenSequence, list[slice]]:
    """Turns as one text, and where the contents of the scored ones are."""
    sequence = TokenSequence()
    contents: list[slice] = []
    for turn, is_scored in zip(turns, scored, strict=True):
        content, _ = append_turn(sequence, turn, scored=is_scored)
        if is_scored:
            contents.append(content)
    return sequence, contents


def _other_order(dialogue: Dialogue, turn: int) -> list[int]:
    """The last turns before a response by a hash; never the true order if there are two."""
    history = list(range(max(0, turn - HISTORY_TURNS[-1]), turn))
    text = text_sha256([Dialogue(dialogue.dialogue_id, dialogue.turns[:turn])])
    order = sorted(history, key=lambda i: hashlib.sha256(f"{text}\x1f{i}".encode()).digest())
    return order if order != history else order[::-1]
