"""A metric along an axis (turn, turns of history, distance), with an interval at each point.

As a headline, each point's value is a ratio of sums over dialogues, and whole dialogues are
resampled. A point that few dialogues reach has an interval that says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuning.results.bootstrap import Estimate, summarise_draws
from tuning.results.dialogue_table import Column, FloatArray, IntArray


@dataclass(frozen=True)
class Curve:
    """Sums at P points over D dialogues; the metric at a point is one divided by the other."""

    points: tuple[int, ...]
    """``[P]`` Points of the axis, in order."""
    numerators: FloatArray
    """``[P, D]``."""
    denominators: FloatArray
    """``[P, D]``."""

    def values(self) -> dict[int, float]:
        """The metric at each point."""
        values = self.numerators.sum(axis=1) / self.denominators.sum(axis=1)
        return dict(zip(self.points, values.tolist(), strict=True))

    def estimates(self, counts: FloatArray) -> dict[int, Estimate]:
        """The metric with its interval, resample r holding dialogue d ``counts[r, d]`` times."""
        found: dict[int, Estimate] = {}
        for row, (point, value) in enumerate(self.values().items()):
            numerators, denominators = (
                np.einsum("rd,d->r", counts, sums[row])
                for sums in (self.numerators, self.denominators)
            )
            nothing = np.full(len(counts), np.nan)
            draws = np.divide(numerators, denominators, out=nothing, where=denominators > 0)
            found[point] = summarise_draws(value, draws)
        return found


def curve_of(
    point: IntArray,
    dialogue: IntArray,
    numerator: FloatArray,
    denominator: Column,
    num_dialogues: int,
) -> Curve:
    """Sum what each of N items adds at its point of the axis.

    Args:
        point: ``[N]`` The item's point of the axis.
        dialogue: ``[N]`` Index of its dialogue in the evaluation set.
        numerator: ``[N]`` The part of it above the line.
        denominator: ``[N]`` The part of it below the line, above 0.
        num_dialogues: Dialogues in the evaluation set.
    """
    points, row = np.unique(point, return_inverse=True)
    cell = row * num_dialogues + dialogue

    def sums(values: Column) -> FloatArray:
        flat = np.bincount(cell, values, minlength=len(points) * num_dialogues)
        return flat.astype(np.float64).reshape(len(points), num_dialogues)

    return Curve(tuple(points.tolist()), sums(numerator), sums(denominator))
