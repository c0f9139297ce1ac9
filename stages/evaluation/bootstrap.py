"""How sure a number is: whole dialogues are resampled, since turns of one are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from stages.evaluation.scoring import FloatArray


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, num_resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of ``Σ numerator / Σ denominator``.

    Args:
        numerator: ``[D]``, one sum per dialogue.
        denominator: ``[D]``, one sum per dialogue.
        num_resamples: Draws of D dialogues with replacement.
        seed: Of the draws. Equal seeds draw equal dialogues, so that differences are paired.
    """
    numerators = np.asarray(numerator, dtype=np.float64)
    denominators = np.asarray(denominator, dtype=np.float64)
    generator = np.random.default_rng(seed)
    draws: FloatArray = np.empty(num_resamples)
    for index in range(num_resamples):
        sample = generator.integers(len(numerators), size=len(numerators))
        draws[index] = numerators[sample].sum() / denominators[sample].sum()
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
