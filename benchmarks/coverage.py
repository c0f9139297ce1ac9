"""How often the 95 % intervals hold the truth, by the number of dialogues.

``python -m benchmarks.coverage metrics/eval_dialogues.csv``: the table's dialogues are the
population, whose change is the truth. Samples are drawn from it, and each gets an interval from
its own resamples: the percentile one, which the project uses, and a studentised one (bootstrap-t,
Efron & Tibshirani 1993, chapter 12), whose standard errors are those of a ratio of sums.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuning.report.headlines import HEADLINES, Headline
from tuning.results.bootstrap import draw_counts, summarise_draws
from tuning.results.dialogue_table import Table, from_csv

MODELS = ("base", "tuned")
Floats = NDArray[np.float64]


def main() -> None:
    """Print a row per headline and size: the share of intervals that hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path, help="sums per dialogue, CSV")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 30, 50, 100])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    args = parser.parse_args()
    _, table = from_csv(args.table.read_text(encoding="utf-8"))
    print("headline | dialogues | percentile | studentised")
    for headline in HEADLINES:
        if not all(headline.is_in(table, model) for model in MODELS):
            continue
        shares = headline.sums(table, "base", np.eye(len(table["num_bytes"])))[1] > 0
        population = {name: column[shares] for name, column in table.items()}
        for size in args.sizes:
            held = coverage(headline, population, size, args.samples, args.resamples)
            print(f"{headline.title} | {size} | " + " | ".join(f"{one:.1%}" for one in held))


def coverage(
    headline: Headline, population: Table, size: int, num_samples: int, num_resamples: int
) -> tuple[float, float]:
    """Shares of percentile and of studentised intervals that hold the population's change."""
    generator = np.random.default_rng(size)
    num_all = len(population["num_bytes"])
    truth = change(headline, population, np.ones((1, num_all)))[0][0]
    held = np.zeros(2)
    for _ in range(num_samples):
        rows = generator.integers(num_all, size=size)
        sample = {name: column[rows] for name, column in population.items()}
        (value,), (error,) = change(headline, sample, np.ones((1, size)))
        counts = draw_counts(generator, size, num_resamples=num_resamples)
        draws, errors = change(headline, sample, counts)
        plain = summarise_draws(float(value), draws)
        pivots = np.divide(draws - value, errors, out=np.zeros_like(draws), where=errors > 0)
        low, high = np.quantile(pivots, [0.025, 0.975])
        held += (
            plain.low <= truth <= plain.high,
            value - high * error <= truth <= value - low * error,
        )
    return tuple(held / num_samples)


def change(headline: Headline, table: Table, counts: Floats) -> tuple[Floats, Floats]:
    """The change of each resample ``[R]``, and its standard error by the delta method."""
    values, influence = [], []
    for model in MODELS:
        numerators, denominators = headline.sums(table, model, np.eye(counts.shape[1]))
        ratio = (counts @ numerators) / (counts @ denominators)
        values.append(headline.transform(ratio))
        step = 1e-6 * np.maximum(1e-3, np.abs(ratio))
        slope = (headline.transform(ratio + step) - headline.transform(ratio - step)) / (2 * step)
        residuals = numerators - ratio[:, None] * denominators
        influence.append((slope / (counts @ denominators))[:, None] * residuals)
    difference = influence[1] - influence[0]
    size = counts.shape[1]
    variance = (counts * difference**2).sum(axis=1) * size / max(1, size - 1)
    return values[1] - values[0], np.sqrt(variance)


if __name__ == "__main__":
    main()
