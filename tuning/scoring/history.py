"""Context retention: how much the history helps a model to predict a response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuning.dialogue import Dialogue
from tuning.evaluation_set.places import by_hash, choose_spread
from tuning.evaluation_set.text import text_sha256
from tuning.results.curves import Curve, curve_of
from tuning.results.dialogue_table import FloatArray, IntArray
from tuning.results.response_scores import bits_per_byte
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, sums
from tuning.scoring.perplexity import content_of
from tuning.tokens.template import Template

HISTORY_TURNS = (0, 1, 2, 4, 8)
"""Numbers of last turns after which each response is scored."""


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
    """``[R, K]`` Nats after the last ``HISTORY_TURNS[k]`` turns, or all if there are fewer."""
    shuffled_nll: FloatArray
    """``[R]`` Nats after the turns of the last column, in another order."""


def measure_histories(subject: Subject) -> Scoring[Findings]:
    """Score responses after more and more of their last turns."""
    scores = yield from score_histories(
        subject.template, subject.dialogues, num_responses=subject.amounts.history_responses
    )
    return Findings(
        figures={"shuffled_history_gain": shuffled_history_gain(scores)},
        curves={"num_turns": history_gain_by_turns(scores, len(subject.dialogues))},
    )


def score_histories(
    template: Template, dialogues: Sequence[Dialogue], *, num_responses: int
) -> Scoring[HistoryScores]:
    """Score responses after their last 0, 1, 2, 4 and 8 turns, and after those 8 shuffled.

    Of each dialogue one response, then of each another, until there are ``num_responses``.
    """
    responses = [dialogue.responses for dialogue in dialogues]
    chosen = choose_spread(dialogues, responses, num_responses)
    readings = {place.dialogue: template.read(dialogues[place.dialogue]) for place in chosen}
    sequences: list[TokenSequence] = []
    for place in chosen:
        histories = [range(max(0, place.turn - k), place.turn) for k in HISTORY_TURNS]
        for history in (*histories, _other_order(dialogues[place.dialogue], place.turn)):
            sequences.append(content_of(readings[place.dialogue].after(history, place.turn)))
    nll = yield sequences

    table = sums(nll).reshape(-1, len(HISTORY_TURNS) + 1)
    return HistoryScores(
        dialogue=np.array([place.dialogue for place in chosen], dtype=np.int64),
        turn=np.array([place.turn for place in chosen], dtype=np.int64),
        num_bytes=np.array(
            [len(dialogues[one.dialogue].turns[one.turn].text.encode()) for one in chosen],
            dtype=np.int64,
        ),
        nll=table[:, :-1],
        shuffled_nll=table[:, -1],
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


def _other_order(dialogue: Dialogue, turn: int) -> list[int]:
    """The last turns before a response by a hash; never the true order if there are two."""
    history = list(range(max(0, turn - HISTORY_TURNS[-1]), turn))
    text = text_sha256([Dialogue(dialogue.dialogue_id, dialogue.turns[:turn])])
    order = by_hash(history, text)
    return order if order != history else order[::-1]
