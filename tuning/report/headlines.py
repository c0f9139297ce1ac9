"""The headline metrics: each a ratio of sums over dialogues, so that dialogues can be resampled."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuning.results.bootstrap import (
    FEWEST_DIALOGUES,
    FEWEST_RUNS,
    Estimate,
    holm,
    summarise_draws,
)
from tuning.results.dialogue_table import FloatArray, Table

METRIC_VERSION = 3
"""Raise it when the same models on the same text would get other numbers: another formula, another
template, another way to score or to choose what is scored. A new headline is no reason. Evaluations
of different versions are not compared; those from before there were versions are of version 1."""


LONG = 1e5
"""From here on a number is shown by its power of ten."""
SIGNIFICANCE = 0.05
WHAT_A_VERDICT_SAYS = (
    "differ: these two models, on other such dialogues. Another seed may give another model: at "
    f"least {FEWEST_RUNS} runs a side say whether a configuration is better."
)
PRIMARY = "bits_per_byte"
"""The headline of evaluations from before one was declared."""


def what_was_declared(metrics: Mapping[str, Any]) -> str:
    """Say which headline was declared before an evaluation, and what that decides."""
    name = metrics["set"].get("primary", PRIMARY)
    return declaration(name, [one for one in HEADLINES if one.name in metrics["change"]])


def declaration(name: str, measured: Collection[Headline]) -> str:
    """Say that a headline was declared beforehand, and what that decides, in a table of some."""
    titles = [one.title for one in measured if one.name == name]
    return (
        f"Declared beforehand (eval.primary): {titles[0] if titles else name}"
        f"{'' if titles else ', which was not measured'}. Its own interval decides, the others "
        "are held to what several tests need (Holm)."
    )


def as_is(values: FloatArray) -> FloatArray:
    """Return the divided sums, which are the metric."""
    return values


def _in_bits(values: FloatArray) -> FloatArray:
    return values / math.log(2)


def _finite_exp(values: FloatArray) -> FloatArray:
    """JSON has no infinity: the largest float stands for all above it."""
    return np.exp(np.minimum(values, math.log(sys.float_info.max)))


@dataclass(frozen=True, kw_only=True)
class Headline:
    """``transform(Σ (numerator − subtracted) / Σ denominator)``, Σ over columns and dialogues.

    Columns are those of the table of sums per dialogue; ``{m}`` stands for the model's name.
    """

    name: str
    """Its key in ``metrics/eval.json``."""
    title: str
    numerator: tuple[str, ...]
    subtracted: tuple[str, ...] = ()
    denominator: tuple[str, ...]
    transform: Callable[[FloatArray], FloatArray]
    """Turns the divided sums into the metric; applied once, to the whole set."""
    higher_is_better: bool
    one_tokenizer_only: bool
    """Comparable only between models with one tokenizer and template."""
    decimals: int
    is_judged: bool = True
    """Whether its change gets a verdict."""
    same_as: str = ""
    """Another headline that always changes with it, whose verdict is its own."""

    def is_in(self, table: Table, model: str) -> bool:
        """Tell whether the table has all columns that this takes, with something to divide by."""
        names = (*self.numerator, *self.subtracted, *self.denominator)
        return all(name.format(m=model) in table for name in names) and bool(
            self.num_dialogues(table, model)
        )

    def num_dialogues(self, table: Table, model: str) -> int:
        """Dialogues that have a share in it."""
        return int((self._total(table, model, self.denominator) > 0).sum())

    def sums(self, table: Table, model: str, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both sums ``[R]``, with dialogue d taken ``counts[R, D]`` times."""
        numerator = self._total(table, model, self.numerator)
        numerator = numerator - self._total(table, model, self.subtracted)
        denominator = self._total(table, model, self.denominator)
        # Not a matrix product: its last bits would depend on the number of threads.
        return np.einsum("rd,d->r", counts, numerator), np.einsum("rd,d->r", counts, denominator)

    def ratio(self, numerators: FloatArray, denominators: FloatArray) -> FloatArray:
        """The metric from its sums ``[R]``; NaN where nothing was counted."""
        nothing = np.full(numerators.shape, np.nan)
        return self.transform(
            np.divide(numerators, denominators, out=nothing, where=denominators > 0)
        )

    def values(self, table: Table, model: str, counts: FloatArray) -> FloatArray:
        """The metric ``[R]``, with dialogue d taken ``counts[R, D]`` times."""
        return self.ratio(*self.sums(table, model, counts))

    def shown(self, value: float, *, signed: bool = False) -> str:
        """Return the number as people read it: ``1,234.50``; a change is signed: ``+0.25``.

        One that would burst its column is ``1.1e+11``: a word may cost any perplexity.
        """
        form = f",.{self.decimals}f" if abs(value) < LONG else ".1e"
        return f"{value:{'+' if signed else ''}{form}}"

    def shown_interval(self, low: float, high: float) -> str:
        """Return the interval of a change as people read it: ``[-0.10, +0.25]``."""
        return f"[{self.shown(low, signed=True)}, {self.shown(high, signed=True)}]"

    def _total(self, table: Table, model: str, names: tuple[str, ...]) -> FloatArray:
        total = np.zeros(num_dialogues_of(table))
        for name in names:
            total = total + table[name.format(m=model)]
        return total


HEADLINES = (
    Headline(
        name="bits_per_byte",
        title="bits per byte",
        numerator=("{m}_content_nll",),
        denominator=("num_bytes",),
        transform=_in_bits,
        higher_is_better=False,
        one_tokenizer_only=False,
        decimals=4,
    ),
    Headline(
        name="perplexity",
        title="perplexity",
        numerator=("{m}_content_nll", "{m}_end_nll"),
        denominator=("{m}_num_tokens", "num_ends"),
        transform=_finite_exp,
        higher_is_better=False,
        one_tokenizer_only=True,
        decimals=2,
    ),
    Headline(
        name="word_perplexity",
        title="word perplexity",
        numerator=("{m}_content_nll",),
        denominator=("num_words",),
        transform=_finite_exp,
        higher_is_better=False,
        one_tokenizer_only=False,
        decimals=1,
        same_as="bits_per_byte",
    ),
    Headline(
        name="bits_per_byte_with_ends",
        title="bits per byte with ends",
        numerator=("{m}_content_nll", "{m}_end_nll"),
        denominator=("num_bytes",),
        transform=_in_bits,
        higher_is_better=False,
        one_tokenizer_only=True,
        decimals=4,
    ),
    Headline(
        name="end_of_turn_nll",
        title="end of turn, nats",
        numerator=("{m}_end_nll",),
        denominator=("num_ends",),
        transform=as_is,
        higher_is_better=False,
        one_tokenizer_only=True,
        decimals=3,
    ),
    Headline(
        name="history_gain",
        title="history gain",
        numerator=("{m}_alone_nll",),
        subtracted=("{m}_content_nll",),
        denominator=("num_bytes",),
        transform=_in_bits,
        higher_is_better=True,
        one_tokenizer_only=False,
        decimals=4,
        is_judged=False,  # a model that needs its history less may be the better one
    ),
    Headline(
        name="foreign_history_gain",
        title="foreign history gain",
        numerator=("{m}_foreign_nll",),
        subtracted=("{m}_own_nll",),
        denominator=("block_bytes",),
        transform=_in_bits,
        higher_is_better=True,
        one_tokenizer_only=False,
        decimals=4,
    ),
    Headline(
        name="context_identification",
        title="context identification",
        numerator=("{m}_context_hits",),
        denominator=("num_context_items",),
        transform=as_is,
        higher_is_better=True,
        one_tokenizer_only=False,
        decimals=3,
    ),
    Headline(
        name="recall",
        title="recall of planted facts",
        numerator=("{m}_recall_hits",),
        denominator=("num_recall_items",),
        transform=as_is,
        higher_is_better=True,
        one_tokenizer_only=False,
        decimals=3,
    ),
)


def with_intervals(
    table: Table, counts: FloatArray, headlines: Sequence[Headline] = HEADLINES
) -> dict[str, dict[str, float]]:
    """Every headline of ``base``, of ``tuned``, and their ``change`` (tuned − base, paired).

    Each as ``name``, ``name_low`` and ``name_high`` (95 %); a change also as ``name_p``, and as
    ``name_n`` the dialogues with a share in it. One matrix of resamples serves all, so
    a change's interval is that of the difference within each resample, and equal models differ by
    exactly 0. A headline whose columns are not in the table is left out.

    Args:
        table: The sums per dialogue of both models.
        counts: ``[R, D]`` How often each resample holds each dialogue.
        headlines: The metrics that are computed.
    """
    once = np.ones((1, num_dialogues_of(table)))
    found: dict[str, dict[str, float]] = {"base": {}, "tuned": {}, "change": {}}
    for headline in headlines:
        if not all(headline.is_in(table, model) for model in ("base", "tuned")):
            continue
        value = {model: headline.values(table, model, once) for model in ("base", "tuned")}
        draws = {model: headline.values(table, model, counts) for model in ("base", "tuned")}
        value["change"] = value["tuned"] - value["base"]
        draws["change"] = draws["tuned"] - draws["base"]
        for section, numbers in found.items():
            estimate = summarise_draws(float(value[section][0]), draws[section])
            numbers[headline.name] = estimate.value
            numbers[f"{headline.name}_low"] = estimate.low
            numbers[f"{headline.name}_high"] = estimate.high
        found["change"][f"{headline.name}_p"] = estimate.p
        found["change"][f"{headline.name}_n"] = min(
            headline.num_dialogues(table, model) for model in ("base", "tuned")
        )
    return found


@dataclass(frozen=True)
class HeadlineRow:
    """A headline as people read it."""

    title: str
    cells: tuple[tuple[str, str, str], ...]
    """The value, and the interval's low and high end, of base, fine-tuned and change."""
    num_dialogues: int
    """Those with a share in it."""
    meaning: str
    """The verdict, or why there is none."""


def headline_rows(
    metrics: Mapping[str, Any], headlines: Sequence[Headline] = HEADLINES
) -> list[HeadlineRow]:
    """The headlines of ``metrics/eval.json``, or of what has its form, that have intervals."""
    sections = [metrics["base"], metrics["tuned"], metrics["change"]]
    measured = [one for one in headlines if all(f"{one.name}_low" in it for it in sections)]
    meanings = _meanings(measured, metrics)
    rows = []
    for headline in measured:
        cells = []
        for section in sections:
            value, low, high = (
                headline.shown(section[f"{headline.name}{end}"], signed=section is sections[-1])
                for end in ("", "_low", "_high")
            )
            cells.append((value, low, high))
        num_dialogues = int(sections[-1][f"{headline.name}_n"])
        rows.append(
            HeadlineRow(headline.title, tuple(cells), num_dialogues, meanings[headline.name])
        )
    return rows


def _meanings(measured: Collection[Headline], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return what each change of ``metrics/eval.json`` means: two models, so one run a side."""
    change = metrics["change"]
    one_template = metrics["base"].get("template") == metrics["tuned"].get("template")
    changes = {
        one.name: Estimate(
            value=change[one.name],
            low=change[f"{one.name}_low"],
            high=change[f"{one.name}_high"],
            standard_error=math.nan,
            p=change[f"{one.name}_p"],
        )
        for one in measured
        if one_template or not one.one_tokenizer_only
    }
    found = verdicts(
        changes,
        {one.name: change[f"{one.name}_n"] for one in measured},
        primary=metrics["set"].get("primary", PRIMARY),
        num_runs=1,
        headlines=measured,
    )
    return {one.name: found.get(one.name, "not comparable: two templates") for one in measured}


def verdicts(
    changes: Mapping[str, Estimate],
    num_dialogues: Mapping[str, int],
    *,
    primary: str,
    num_runs: int,
    headlines: Collection[Headline] = HEADLINES,
) -> dict[str, str]:
    """Say what each headline's change means, in words that the evidence bears.

    The primary headline is judged by its own interval, the others by p-values that Holm's method
    adjusts for how many they are; one that always changes with another is not counted again. With
    fewer than ``FEWEST_RUNS`` runs a side, two models differ or not; with as many, a configuration
    is better or worse. Fewer dialogues than ``FEWEST_DIALOGUES`` get no verdict.

    Args:
        changes: Of those headlines that can be compared.
        num_dialogues: The dialogues that have a share in each.
        primary: The headline that was declared beforehand.
        num_runs: Runs on the side that has fewer.
        headlines: All that may be among them.
    """
    found: dict[str, str] = {}
    judged: list[Headline] = []
    for headline in (one for one in headlines if one.name in changes):
        if num_dialogues[headline.name] < FEWEST_DIALOGUES:
            found[headline.name] = f"too few dialogues (under {FEWEST_DIALOGUES})"
        elif not headline.is_judged:
            found[headline.name] = "no verdict"
        elif headline.same_as in changes and headline.name != primary:
            found[headline.name] = f"as {headline.same_as.replace('_', ' ')}"
        else:
            judged.append(headline)
    others = [one.name for one in judged if one.name != primary]
    adjusted = holm({name: changes[name].p for name in others})
    for headline in judged:
        change = changes[headline.name]
        is_shown = adjusted.get(headline.name, 0.0) <= SIGNIFICANCE
        if not is_shown or change.low <= 0 <= change.high:
            found[headline.name] = "no difference shown"
        elif num_runs < FEWEST_RUNS:
            found[headline.name] = "differ"
        else:
            is_better = (change.low > 0) == headline.higher_is_better
            found[headline.name] = "better" if is_better else "worse"
    return found


def num_dialogues_of(table: Table) -> int:
    """Rows of the table."""
    return len(next(iter(table.values())))
