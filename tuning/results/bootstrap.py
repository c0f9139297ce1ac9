"""Intervals of numbers: whole dialogues are resampled, as turns of one are not independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FEWEST_DIALOGUES = 10
"""The fewest dialogues for a verdict: fewer say little, and one has an interval of no width."""

DETECTABLE_STANDARD_ERRORS = 2.8
"""z(0.975) + z(0.8): found by a two-sided test at 5 % with power 0.8 (Gelman & Hill 2007, 20.2)."""

Verdict = Literal["better", "worse", "inside the noise", "too few dialogues"]


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % percentile interval (Efron & Tibshirani 1993, chapter 13), its error."""

    value: float
    low: float
    high: float
    standard_error: float
    """Standard deviation of the resampled values."""

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
    return Estimate(value, float(low), float(high), float(kept.std()))


def verdict(low: float, high: float, *, higher_is_better: bool, num_dialogues: int) -> Verdict:
    """Say what the interval of a change means: a direction only if it leaves out 0."""
    if num_dialogues < FEWEST_DIALOGUES:
        return "too few dialogues"
    if low <= 0 <= high:
        return "inside the noise"
    return "better" if (low > 0) == higher_is_better else "worse"
