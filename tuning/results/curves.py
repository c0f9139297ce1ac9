"""A metric along an axis (turn, turns of history, distance), with an interval at each place.

As a headline, each place's value is a ratio of sums over dialogues, and whole dialogues are
resampled. A place that few dialogues reach has an interval that says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuning.results.bootstrap import Estimate, summarise_draws
from tuning.results.dialogue_table import Column, FloatArray, IntArray


@dataclass(frozen=True)
class Curve:
    """Sums at P places over D dialogues; the metric at a place is one divided by the other."""

    places: tuple[int, ...]
    """``[P]`` In order."""
    numerators: FloatArray
    """``[P, D]``."""
    denominators: FloatArray
    """``[P, D]``."""

    def values(self) -> dict[int, float]:
        """The metric at each place."""
        values = self.numerators.sum(axis=1) / self.denominators.sum(axis=1)
        return dict(zip(self.places, values.tolist(), strict=True))

    def estimates(self, counts: FloatArray) -> dict[int, Estimate]:
        """The metric with its interval, resample r holding dialogue d ``counts[r, d]`` times."""
        found: dict[int, Estimate] = {}
        for row, (place, value) in enumerate(self.values().items()):
            numerators, denominators = (
                np.einsum("rd,d->r", counts, sums[row])
                for sums in (self.numerators, self.denominators)
            )
            nothing = np.full(len(counts), np.nan)
            draws = np.divide(numerators, denominators, out=nothing, where=denominators > 0)
            found[place] = summarise_draws(value, draws)
        return found


def curve_of(
    place: IntArray,
    dialogue: IntArray,
    numerator: FloatArray,
    denominator: Column,
    num_dialogues: int,
) -> Curve:
    """Sum what each of N items adds.

    Args:
        place: ``[N]`` Where on the axis it stands.
        dialogue: ``[N]`` Index of its dialogue in the evaluation set.
        numerator: ``[N]``.
        denominator: ``[N]`` Above 0.
        num_dialogues: In the evaluation set.
    """
    places, row = np.unique(place, return_inverse=True)
    cell = row * num_dialogues + dialogue

    def sums(values: Column) -> FloatArray:
        flat = np.bincount(cell, values, minlength=len(places) * num_dialogues)
        return flat.astype(np.float64).reshape(len(places), num_dialogues)

    return Curve(tuple(places.tolist()), sums(numerator), sums(denominator))
