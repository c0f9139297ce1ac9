"""Two sides, each one run or several seeds: how they differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tools.compare.comparable import declared_primary, reason_against, set_differences
from tools.compare.configurations import differing, is_same_run
from tools.compare.resampling import draw_run_counts, pooled, pooled_value
from tools.compare.revisions import Evaluation
from tuning.report.call_shares import CALL_SHARES
from tuning.report.headlines import (
    HEADLINES,
    WHAT_A_VERDICT_SAYS,
    Headline,
    declaration,
    verdicts,
)
from tuning.results.bootstrap import FEWEST_RUNS, Estimate, draw_counts, summarise_draws
from tuning.results.dialogue_table import in_order
from tuning.run.errors import UserError
from tuning.run.visible import as_name

MODEL = "tuned"
EVERY = (*HEADLINES, *CALL_SHARES)
COLUMNS = ("A", "B", "Δ", "95 % interval", "n", "verdict")
FEW_SEEDS = 5


@dataclass(frozen=True)
class Row:
    """One headline of the fine-tuned models."""

    headline: Headline
    a: float | None
    """None where that side has not measured it."""
    b: float | None
    change: Estimate | None
    """B − A; None where the two must not be compared."""
    num_dialogues: int
    """Those with a share in it, on the side that has fewer."""
    verdict: str
    """About B; or the reason why there is no change."""

    @property
    def cells(self) -> list[str]:
        """The text under each of ``COLUMNS``; a dash for what there is not."""
        shown = self.headline.shown
        a, b = ("–" if value is None else shown(value) for value in (self.a, self.b))
        if self.change is None:
            return [a, b, "–", "–", "–", self.verdict]
        return [
            a,
            b,
            shown(self.change.value, signed=True),
            self.headline.shown_interval(self.change.low, self.change.high),
            f"{self.num_dialogues:,}",
            self.verdict,
        ]


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of two sides."""

    a: Sequence[Evaluation]
    b: Sequence[Evaluation]
    rows: Sequence[Row]

    @property
    def sides(self) -> dict[str, str]:
        """The letter of each side and what it is."""
        return {
            "A": ", ".join(one.label for one in self.a),
            "B": ", ".join(one.label for one in self.b),
        }

    @property
    def text(self) -> str:
        """The size of the text on which both were scored."""
        table = self.a[0].table
        return (
            f"{len(self.a[0].dialogue_ids):,} dialogues, {table['num_responses'].sum():,.0f} "
            f"responses, {table['num_bytes'].sum():,.0f} bytes: the same text on both sides."
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on how verdicts are found, and on what the intervals do and do not cover."""
        num_seeds = len(self.a), len(self.b)
        measured = [row.headline for row in self.rows]
        notes = [declaration(declared_primary(self.a[0]), measured)]
        if max(num_seeds) == 1:
            return [*notes, WHAT_A_VERDICT_SAYS]
        notes += [
            f"Runs: {num_seeds[0]} on side A, {num_seeds[1]} on side B. Both runs and dialogues "
            "are resampled."
        ]
        notes += [
            f"Side {letter} is no single configuration, so its spread is not that of seeds: its "
            f"runs differ in {as_name(', '.join(keys))}."
            for letter, side in (("A", self.a), ("B", self.b))
            if (keys := differing(side))
        ]
        first = self.rows[0]
        if min(num_seeds) >= FEWEST_RUNS and first.change is not None:
            notes.append(
                f"A true Δ of {first.headline.shown(first.change.detectable)} in "
                f"{first.headline.title} would be found four times out of five."
            )
        elif min(num_seeds) < FEWEST_RUNS:
            notes.append(WHAT_A_VERDICT_SAYS)
        if min(num_seeds) == 1:
            notes.append("The spread between seeds is unknown on the side with one run.")
        if min(num_seeds) < FEW_SEEDS:
            notes.append(
                f"With fewer than {FEW_SEEDS} runs on a side the interval is too narrow "
                "(docs/metrics.md says by how much)."
            )
        return notes


def compare(
    a: Sequence[Evaluation], b: Sequence[Evaluation], *, num_resamples: int, seed: int
) -> Comparison:
    """Compare every headline of the fine-tuned models on both sides, B − A, paired by dialogue.

    Each resample draws D of the D dialogues with replacement, the same for every run on both
    sides, and of a side with S > 1 runs S − 1 runs with replacement, on each side for itself. A
    side's value is the ratio of the sums over all its drawn runs and dialogues. Drawing both is
    the Multi-Bootstrap (Sellam et al. 2022, "The MultiBERTs"; unpaired in seeds, paired
    in examples). A single run is kept as it is.

    Raises:
        UserError: the evaluation sets differ, or a side names one run twice.
    """
    _check_distinct(a)
    _check_distinct(b)
    _check_same_set([*a, *b])
    ids = a[0].dialogue_ids
    tables_a, tables_b = (
        [in_order(one.dialogue_ids, one.table, ids) for one in side] for side in (a, b)
    )
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)]
    dialogues = draw_counts(streams[0], len(ids), num_resamples=num_resamples)
    runs_a, runs_b = (
        draw_run_counts(stream, len(side), num_resamples=num_resamples)
        for stream, side in zip(streams[1:], (a, b), strict=True)
    )
    rows: list[Row] = []
    changes: dict[str, Estimate] = {}
    for headline in EVERY:
        value_a, value_b = (
            pooled_value(headline, tables, MODEL) for tables in (tables_a, tables_b)
        )
        if value_a is None and value_b is None:
            continue
        reason = reason_against(headline, [(one, MODEL) for one in (*a, *b)])
        if value_a is None or value_b is None:
            reason = f"not measured on side {'A' if value_a is None else 'B'}"
        if reason is not None or value_a is None or value_b is None:
            rows.append(Row(headline, value_a, value_b, None, 0, reason or ""))
            continue
        draws_a = pooled(headline, tables_a, MODEL, runs=runs_a, dialogues=dialogues)
        draws_b = pooled(headline, tables_b, MODEL, runs=runs_b, dialogues=dialogues)
        change = changes[headline.name] = summarise_draws(value_b - value_a, draws_b - draws_a)
        shares = [headline.num_dialogues(table, MODEL) for table in (*tables_a, *tables_b)]
        rows.append(Row(headline, value_a, value_b, change, min(shares), ""))
    if not rows:
        raise UserError(f"{a[0].label} and {b[0].label} have no sums per dialogue in common.")
    found = verdicts(
        changes,
        {row.headline.name: row.num_dialogues for row in rows},
        primary=_primary([*a, *b]),
        num_runs=min(len(a), len(b)),
        headlines=EVERY,
    )
    return Comparison(
        a,
        b,
        [replace(row, verdict=found.get(row.headline.name, row.verdict)) for row in rows],
    )


def _primary(evaluations: Sequence[Evaluation]) -> str:
    """Return the headline that all of them declared."""
    declared = {declared_primary(one): one.label for one in evaluations}
    if len(declared) > 1:
        named = " and ".join(f"{label} ({name})" for name, label in declared.items())
        raise UserError(
            f"{named} declare different primary headlines (eval.primary); evaluate them with one."
        )
    return next(iter(declared))


def _check_distinct(side: Sequence[Evaluation]) -> None:
    for number, one in enumerate(side):
        for other in side[:number]:
            if is_same_run(one, other):
                raise UserError(
                    f"{other.label} and {one.label} are one run, twice on a side: it would count "
                    "as two seeds whose spread is none. Name it once."
                )


def _check_same_set(evaluations: Sequence[Evaluation]) -> None:
    first = evaluations[0]
    for other in evaluations[1:]:
        if differences := set_differences(first, other):
            raise UserError(
                f"{first.label} and {other.label} were not evaluated on the same set. Different: "
                f"{'; '.join(differences)}. Evaluate one of them again with the other's data, "
                "parameters and code."
            )
