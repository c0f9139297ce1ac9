"""Sums per dialogue: what every interval and every paired comparison is computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.corpus.dialogue import Dialogue
from stages.evaluation.bootstrap import ratio_interval
from stages.evaluation.perplexity import ResponseScores


def sum_per_dialogue(
    scores: ResponseScores, values: NDArray[np.float64] | NDArray[np.int64], num_dialogues: int
) -> NDArray[np.float64]:
    """``values[R]`` of responses summed to ``[D]``; a dialogue without a response counts 0."""
    sums = np.bincount(scores.dialogue, values, minlength=num_dialogues)
    return sums.astype(np.float64)


def change_in_bits_per_byte(
    base: ResponseScores,
    tuned: ResponseScores,
    num_dialogues: int,
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, float]:
    """Tuned minus base (negative is better), with its 95 % interval over dialogues."""
    difference = sum_per_dialogue(base, tuned.content_nll - base.content_nll, num_dialogues)
    scale = math.log(2) * sum_per_dialogue(base, base.num_bytes, num_dialogues)
    low, high = ratio_interval(difference, scale, num_resamples=num_resamples, seed=seed)
    return {
        "bits_per_byte": float(difference.sum() / scale.sum()),
        "bits_per_byte_low": low,
        "bits_per_byte_high": high,
    }


def as_table(
    dialogues: Sequence[Dialogue], scores: Mapping[str, ResponseScores]
) -> tuple[list[str], list[list[object]]]:
    """Header and one row per dialogue, with each model's sums in nats and tokens."""
    num_dialogues = len(dialogues)
    first = next(iter(scores.values()))
    header = ["dialogue_id", "num_responses", "num_bytes"]
    columns = [np.bincount(first.dialogue, minlength=num_dialogues).tolist()]
    columns.append(sum_per_dialogue(first, first.num_bytes, num_dialogues).astype(int).tolist())
    for name, score in scores.items():
        header += [f"{name}_content_nll", f"{name}_end_nll", f"{name}_num_tokens"]
        columns.append(sum_per_dialogue(score, score.content_nll, num_dialogues).tolist())
        columns.append(sum_per_dialogue(score, score.end_nll, num_dialogues).tolist())
        num_tokens = sum_per_dialogue(score, score.num_tokens, num_dialogues)
        columns.append(num_tokens.astype(int).tolist())
    ids = [dialogue.dialogue_id for dialogue in dialogues]
    return header, [list(row) for row in zip(ids, *columns, strict=True)]
