"""Intervals of numbers: whole dialogues are resampled, as turns of one are not independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_DIALOGUES = 30
"""The fewest dialogues for a verdict: of fewer, 95 % intervals hold the truth too seldom."""

FEWEST_RUNS = 3
"""The fewest runs a side that say whether a configuration is better, and not one model of it."""

DETECTABLE_STANDARD_ERRORS = 2.8
"""z(0.975) + z(0.8): found by a two-sided test at 5 % with power 0.8 (Gelman & Hill 2007, 20.2)."""


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % percentile interval (Efron & Tibshirani 1993, chapter 13), its error."""

    value: float
    low: float
    high: float
    standard_error: float
    """Standard deviation of the resampled values."""
    p: float
    """Twice the share of resampled values on the less frequent side of 0, at least 1 / (R + 1)."""

    @property
    def detectable(self) -> float:
        """The smallest true change that such a comparison would find four times out of five."""
        return DETECTABLE_STANDARD_ERRORS * self.standard_error


def draw_counts(
    generator: np.random.Generator,
    num_items: int,
    *,
    num_resamples: int,
    num_draws: int | None = None,
) -> NDArray[np.float64]:
    """Draw with replacement; return how often each resample holds each item, ``[R, N]``.

    Numbers computed from one matrix saw the same resamples, so their differences are paired.

    Args:
        generator: Source of the draws.
        num_items: N.
        num_resamples: R.
        num_draws: Draws per resample; by default as many as there are items.
    """
    chances = np.full(num_items, 1 / num_items)
    return generator.multinomial(
        num_items if num_draws is None else num_draws, chances, size=num_resamples
    ).astype(np.float64)


def summarise_draws(value: float, draws: NDArray[np.float64]) -> Estimate:
    """The estimate from a value and its resampled values ``[R]``.

    A resample without any of what is counted has no value (NaN) and is left out.
    """
    kept = draws[~np.isnan(draws)]
    low, high = np.quantile(kept, [0.025, 0.975])
    on_one_side = min((kept <= 0).sum(), (kept >= 0).sum())
    p = min(1.0, (1 + 2 * on_one_side) / (1 + len(kept)))
    return Estimate(value, float(low), float(high), float(kept.std()), float(p))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for how many there are (Holm 1979): an adjusted one is judged by itself."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted
