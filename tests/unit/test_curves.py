"""A curve's points are ratios of sums at each point, its intervals those of resampled dialogues."""

from __future__ import annotations

import numpy as np
import pytest

from tuning.results.bootstrap import draw_counts, summarise_draws
from tuning.results.curves import curve_of


def test_each_place_is_a_ratio_of_its_own_sums() -> None:
    curve = curve_of(
        np.array([4, 1, 4, 4]),
        np.array([0, 2, 2, 0]),
        np.array([1.0, 5.0, 2.0, 3.0]),
        np.array([2, 4, 6, 2]),
        num_dialogues=3,
    )
    assert curve.values() == {1: 5 / 4, 4: 6 / 10}


def test_intervals_are_those_of_whole_dialogues() -> None:
    """From the definition: draw dialogues, take all of their items, divide the sums."""
    generator = np.random.default_rng(3)
    point, dialogue = generator.integers(0, 2, 60), generator.integers(0, 12, 60)
    above, below = generator.random(60), generator.integers(1, 9, 60)
    counts = draw_counts(generator, 12, num_resamples=200)
    found = curve_of(point, dialogue, above, below, 12).estimates(counts)
    for at, estimate in found.items():
        weights = counts[:, dialogue[point == at]]
        draws = (weights @ above[point == at]) / (weights @ below[point == at])
        expected = summarise_draws(estimate.value, draws)
        assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
        assert estimate.low < estimate.value < estimate.high


def test_resamples_without_anyone_at_a_place_are_left_out() -> None:
    """Only the first of two dialogues has an item there; half of the resamples lack it."""
    curve = curve_of(np.array([7]), np.array([0]), np.array([3.0]), np.array([2]), 2)
    estimate = curve.estimates(np.array([[2.0, 0.0], [0.0, 2.0]]))[7]
    assert (estimate.low, estimate.value, estimate.high) == (1.5, 1.5, 1.5)
