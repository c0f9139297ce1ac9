"""Several runs of one configuration as one: its value over all of them, and in each resample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuning.report.headlines import Headline, num_dialogues_of
from tuning.results.bootstrap import draw_counts
from tuning.results.dialogue_table import FloatArray, Table


def draw_run_counts(
    generator: np.random.Generator, num_runs: int, *, num_resamples: int
) -> FloatArray:
    """Draw how often each resample holds each run, ``[R, S]``: S − 1 of S > 1, a single one once.

    S − 1 instead of S makes the variance between few runs unbiased (McCarthy & Snowden 1985, "The
    bootstrap and finite population sampling").
    """
    if num_runs == 1:
        return np.ones((num_resamples, 1))
    return draw_counts(generator, num_runs, num_draws=num_runs - 1, num_resamples=num_resamples)


def pooled(
    headline: Headline,
    tables: Sequence[Table],
    model: str,
    *,
    runs: FloatArray,
    dialogues: FloatArray,
) -> FloatArray:
    """Compute the headline ``[R]`` over all runs: the ratio of the sums, divided once.

    Args:
        headline: The metric.
        tables: ``[S]`` The sums per dialogue of each run, all in one order of dialogues.
        model: ``base`` or ``tuned``.
        runs: ``[R, S]`` How often each resample holds each run.
        dialogues: ``[R, D]`` How often each resample holds each dialogue.
    """
    numerators = np.zeros(len(runs))
    denominators = np.zeros(len(runs))
    for index, table in enumerate(tables):
        numerator, denominator = headline.sums(table, model, dialogues)
        numerators += runs[:, index] * numerator
        denominators += runs[:, index] * denominator
    return headline.ratio(numerators, denominators)


def pooled_value(headline: Headline, tables: Sequence[Table], model: str) -> float | None:
    """Compute the headline over all runs and dialogues; None if one run has not measured it."""
    if not all(headline.is_in(table, model) for table in tables):
        return None
    once = np.ones((1, len(tables))), np.ones((1, num_dialogues_of(tables[0])))
    return float(pooled(headline, tables, model, runs=once[0], dialogues=once[1])[0])
