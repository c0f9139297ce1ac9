"""Many runs at once: those of one configuration are a row, and every two rows a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, product
from string import ascii_uppercase

import numpy as np

from tools.compare.comparable import declared_primary, largest_set, reason_against
from tools.compare.comparison import EVERY, FEW_SEEDS
from tools.compare.configurations import TUNED, Configuration, base_models, configurations
from tools.compare.cost import Cost, cost_of
from tools.compare.resampling import draw_run_counts, pooled, pooled_value
from tools.compare.revisions import Evaluation
from tuning.pages.words import counted
from tuning.report.headlines import WHAT_A_VERDICT_SAYS, Headline, verdicts
from tuning.results.bootstrap import FEWEST_RUNS, Estimate, draw_counts, summarise_draws
from tuning.results.dialogue_table import FloatArray, in_order
from tuning.run.errors import UserError

COLUMNS = (
    "value",
    "95 % interval",
    "runs",
    "n",
    "train min",
    "score min",
    "peak GB",
    "target tokens",
)
NOT_IN = "Not in the table"
NUM_RESAMPLES = 10_000
RESAMPLES_PER_PAIR = 100
"""So the smallest p-value, 1 / (R + 1), is a fifth of what Holm's method asks of the smallest."""
NUM_AT_ONCE = 1_000
"""Resamples of the dialogues that are in memory together."""


@dataclass(frozen=True)
class Row:
    """A configuration, or the base model, with what was measured of it."""

    letter: str
    configuration: Configuration
    estimate: Estimate
    """The primary metric over all runs and dialogues."""
    num_dialogues: int
    """Those with a share in it, in the run that has fewest."""
    cost: Cost

    def cells(self, headline: Headline) -> list[str]:
        """The text under each of ``COLUMNS``; a dash for what there is not."""
        estimate, cost = self.estimate, self.cost
        value, low, high = map(headline.shown, (estimate.value, estimate.low, estimate.high))
        costs = cost.train_minutes, cost.score_minutes, cost.peak_memory_gb
        tokens = cost.num_target_tokens
        return [
            value,
            f"[{low}, {high}]",
            "–" if self.configuration.is_base else f"{len(self.configuration.runs):,}",
            f"{self.num_dialogues:,}",
            *("–" if number is None else f"{number:,.1f}" for number in costs),
            "–" if tokens is None else f"{tokens:,.0f}",
        ]


@dataclass(frozen=True)
class Pair:
    """How a row differs from one above it."""

    row: Row
    against: Row
    change: Estimate | None
    """``row`` − ``against``; None where the two must not be compared."""
    num_dialogues: int
    """Those with a share in it, in the row that has fewer."""
    verdict: str
    """About ``row``, by Holm's method over all pairs; or the reason why there is no change."""

    @property
    def name(self) -> str:
        """The letters of both."""
        return f"{self.row.letter} − {self.against.letter}"

    @property
    def num_runs(self) -> int:
        """Runs of the row that has fewer; a base model is the same whatever the seed."""
        rows = self.row.configuration, self.against.configuration
        return min((len(one.runs) for one in rows if not one.is_base), default=1)

    def cells(self, headline: Headline) -> list[str]:
        """The change, its interval and the verdict; dashes for what there is not."""
        if self.change is None:
            return ["–", "–", self.verdict]
        return [
            headline.shown(self.change.value, signed=True),
            headline.shown_interval(self.change.low, self.change.high),
            self.verdict,
        ]


@dataclass(frozen=True)
class RunTable:
    """Everything that is shown of many runs."""

    headline: Headline
    """The primary metric, which all of them declared."""
    rows: Sequence[Row]
    """Base models, then configurations, each kind from the best to the worst."""
    pairs: Sequence[Pair]
    """Of each row with all that are above it."""
    left_out: Sequence[str]
    """A sentence on each revision that is not in the table."""

    @property
    def title(self) -> str:
        """The metric, and which way is better."""
        better = "higher" if self.headline.higher_is_better else "lower"
        return f"{self.headline.title} ({better} is better)"

    @property
    def text(self) -> str:
        """How many runs there are, and the size of the text on which all were scored."""
        num_runs = sum(len(row.configuration.runs) for row in self._trained)
        table = self.rows[0].configuration.tables[0]
        return (
            f"{counted(num_runs, 'run')} of {counted(len(self._trained), 'configuration')} on the "
            f"same {counted(len(table['num_bytes']), 'dialogue')}: "
            f"{table['num_responses'].sum():,.0f} responses, {table['num_bytes'].sum():,.0f} bytes."
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on what the columns, the intervals and the verdicts mean."""
        notes = [
            "value: over all runs and dialogues of a row; its interval is from resamples of both. "
            "n: dialogues with a share in it. Minutes: means of a run; peak: training's memory; "
            "target tokens: of an epoch."
        ]
        if self.pairs:
            notes.append(
                f"Verdicts are about the first of the two, by Holm's method over "
                f"{counted(len(self.pairs), 'pair')}."
            )
        sizes = [len(row.configuration.runs) for row in self._trained]
        if any(pair.num_runs < FEWEST_RUNS for pair in self.pairs):
            notes.append(WHAT_A_VERDICT_SAYS)
        if 1 in sizes:
            notes.append("The spread between seeds is unknown where a row has one run.")
        if any(1 < size < FEW_SEEDS for size in sizes):
            notes.append(
                f"With 2 to {FEW_SEEDS - 1} runs the interval is too narrow (docs/metrics.md says "
                "by how much)."
            )
        names = [row.configuration.name for row in self._trained]
        if len(set(names)) < len(names):
            notes.append(
                "Rows of one name have the same parameters: their code, data or machines differ."
            )
        return notes

    @property
    def _trained(self) -> list[Row]:
        return [row for row in self.rows if not row.configuration.is_base]


def make_table(
    evaluations: Sequence[Evaluation], left_out: Sequence[str], *, seed: int
) -> RunTable:
    """Pool the runs of each configuration, and compare every two rows on the same dialogues.

    Resamples are those of ``compare``: dialogues are drawn once for all rows, runs for each row on
    its own. A pair's interval is that of the difference of its rows within each resample. Its
    verdict is by Holm's method over all pairs.

    Args:
        evaluations: Of all revisions.
        left_out: Why others are not among them.
        seed: Seed of the resamples.

    Raises:
        UserError: nothing is left that can stand in a table.
    """
    headline, measured, reasons = _measured(evaluations, left_out)
    found = [
        *_best_first(base_models(measured, headline), headline),
        *_best_first(configurations(measured, headline), headline),
    ]
    num_pairs = len(found) * (len(found) - 1) // 2
    num_resamples = max(NUM_RESAMPLES, RESAMPLES_PER_PAIR * num_pairs)
    draws = _resample(found, headline, num_resamples=num_resamples, seed=seed)
    trained = [one for each in found if not each.is_base for one in each.evaluations]
    rows = [
        Row(
            letter,
            one,
            summarise_draws(_value(one, headline), drawn),
            min(headline.num_dialogues(table, one.model) for table in one.tables),
            cost_of(one.evaluations, trained, one.model),
        )
        for letter, one, drawn in zip(_letters(), found, draws, strict=False)
    ]
    pairs = _judged(_pairs(rows, draws, headline), headline)
    return RunTable(headline, rows, pairs, reasons)


def _measured(
    evaluations: Sequence[Evaluation], left_out: Sequence[str]
) -> tuple[Headline, list[Evaluation], list[str]]:
    """Return the primary headline, the runs of one set that measured it, and why not others."""
    reasons = [
        f"{one.label}: its dvc.lock does not say with which parameters it ran"
        for one in evaluations
        if not one.params
    ]
    chosen, others = largest_set([one for one in evaluations if one.params])
    reasons = [*left_out, *reasons, *others]
    by_name = {headline.name: headline for headline in EVERY}
    headline = by_name.get(declared_primary(chosen[0])) if chosen else None
    measured = []
    for one in chosen:
        if headline is not None and headline.is_in(one.table, TUNED):
            measured.append(one)
        else:
            reasons.append(
                f"{one.label}: {declared_primary(one)}, its primary headline, is not in it"
            )
    if headline is None or not measured:
        raise UserError("\n".join(["there is no run to put into a table.", *reasons]))
    ids = measured[0].dialogue_ids
    aligned = [
        replace(one, dialogue_ids=ids, table=in_order(one.dialogue_ids, one.table, ids))
        for one in measured
    ]
    return headline, aligned, reasons


def _value(one: Configuration, headline: Headline) -> float:
    value = pooled_value(headline, one.tables, one.model)
    assert value is not None, "only what was measured is in a table"
    return value


def _best_first(found: Sequence[Configuration], headline: Headline) -> list[Configuration]:
    sign = -1 if headline.higher_is_better else 1
    return sorted(found, key=lambda one: sign * _value(one, headline))


def _letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    by_length = (product(ascii_uppercase, repeat=length) for length in count(1))
    return ("".join(letters) for letters in chain.from_iterable(by_length))


def _resample(
    found: Sequence[Configuration], headline: Headline, *, num_resamples: int, seed: int
) -> FloatArray:
    """Compute the headline of each configuration ``[C, R]``, all on the same dialogues."""
    dialogues, *streams = [
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(1 + len(found))
    ]
    runs = [
        draw_run_counts(stream, len(one.runs), num_resamples=num_resamples)
        for stream, one in zip(streams, found, strict=True)
    ]
    num_dialogues = len(found[0].evaluations[0].dialogue_ids)
    draws = np.empty((len(found), num_resamples))
    for start in range(0, num_resamples, NUM_AT_ONCE):
        part = slice(start, min(start + NUM_AT_ONCE, num_resamples))
        counts = draw_counts(dialogues, num_dialogues, num_resamples=part.stop - start)
        for index, one in enumerate(found):
            draws[index, part] = pooled(
                headline, one.tables, one.model, runs=runs[index][part], dialogues=counts
            )
    return draws


def _pairs(rows: Sequence[Row], draws: FloatArray, headline: Headline) -> list[Pair]:
    """Return each row with those above it; the verdict is still missing where there is a change."""
    pairs = []
    for number, row in enumerate(rows):
        for other, against in enumerate(rows[:number]):
            reason = reason_against(
                headline, [*row.configuration.measured, *against.configuration.measured]
            )
            change = None
            if reason is None:
                value = row.estimate.value - against.estimate.value
                change = summarise_draws(value, draws[number] - draws[other])
            num_dialogues = min(row.num_dialogues, against.num_dialogues)
            pairs.append(Pair(row, against, change, num_dialogues, reason or ""))
    return pairs


def _judged(pairs: Sequence[Pair], headline: Headline) -> list[Pair]:
    """Give every pair its verdict: as headlines get theirs, with no primary one among them."""
    changes = {pair.name: pair.change for pair in pairs if pair.change is not None}
    by_num_runs = {
        num_runs: verdicts(
            changes,
            {pair.name: pair.num_dialogues for pair in pairs},
            primary="",
            num_runs=num_runs,
            headlines=[replace(headline, name=name) for name in changes],
        )
        for num_runs in {pair.num_runs for pair in pairs}
    }
    return [
        replace(pair, verdict=by_num_runs[pair.num_runs].get(pair.name, pair.verdict))
        for pair in pairs
    ]
