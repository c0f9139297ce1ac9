"""The statistics behind the comparison with human ratings."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.meta_evaluation import interval, partial_spearman, ranks, spearman, tfidf_similarity


def test_equal_values_share_their_mean_rank() -> None:
    assert ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [4, 1, 2.5, 2.5]


def test_only_the_order_matters() -> None:
    values = np.array([0.1, 5.0, 2.0, 9.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4])) == pytest.approx(0.8)


def test_the_interval_resamples_whole_groups() -> None:
    values = np.arange(40.0)
    noise = np.random.default_rng(1).normal(size=40)
    low, high = interval(values, values + 20 * noise, np.arange(40) // 4, num_resamples=200)
    assert low < spearman(values, values + 20 * noise) < high
    assert interval(values, values, np.arange(40) // 4, num_resamples=100) == pytest.approx((1, 1))


def test_similarity_is_that_of_shared_words() -> None:
    contexts = ["a red fox", "two blue birds"]
    responses = ["a red fox", "nothing here", "A fox!"]
    found = tfidf_similarity(contexts, np.array([0, 1, 0]), responses)
    assert found[0] == pytest.approx(1)
    assert found[1] == 0
    assert 0 < found[2] < 1


def test_what_only_length_explains_is_nothing_at_equal_length() -> None:
    generator = np.random.default_rng(2)
    length, one, other = generator.normal(size=(3, 4000))
    assert spearman(length + one, length + other) > 0.4
    assert abs(partial_spearman(length + one, length + other, length)) < 0.05
    assert partial_spearman(length + one, length + one, length) == pytest.approx(1)
