"""Runs by configuration: those whose parameters are equal but for the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from tools.compare.cost import figure
from tools.compare.revisions import Evaluation
from tuning.report.headlines import Headline
from tuning.results.dialogue_table import Table
from tuning.run.visible import as_name

SEED = "seed"
BASE = "base"
TUNED = "tuned"
NOT_SET = "–"
TOLERANCE = 1e-3
"""Sums per dialogue that differ by less (threads, machines) are of one model."""

Run = list[Evaluation]
"""Revisions that hold one and the same run; the first one's files speak for it."""


@dataclass(frozen=True)
class Configuration:
    """What a row is about: a base model, or the runs with one set of parameters."""

    model: str
    """``base`` or ``tuned``, as its columns begin."""
    runs: Sequence[Run]
    """By seed."""
    params: dict[str, str] = field(default_factory=dict)
    """The parameters in which configurations of the table differ, by full key."""

    @property
    def is_base(self) -> bool:
        """Tell whether nothing was trained."""
        return self.model == BASE

    @property
    def evaluations(self) -> list[Evaluation]:
        """One of each run."""
        return [run[0] for run in self.runs]

    @property
    def measured(self) -> list[tuple[Evaluation, str]]:
        """The same, each with the model that is meant."""
        return [(one, self.model) for one in self.evaluations]

    @property
    def tables(self) -> list[Table]:
        """The sums per dialogue of each run."""
        return [one.table for one in self.evaluations]

    @property
    def settings(self) -> list[str]:
        """What tells it from the others, as ``key=value``."""
        return [as_name(f"{key}={value}") for key, value in self.params.items()]

    @property
    def name(self) -> str:
        """What it is in a line."""
        title = "base model" if self.is_base else "fine-tuned"
        if self.is_base and self.params:
            return ", ".join([title, *self.settings])
        return ", ".join(self.settings) or title

    @property
    def revisions(self) -> list[str]:
        """Each run's seed with the names of its revisions; of a base model, nothing."""
        if self.is_base:
            return []
        return [
            f"seed {as_name(run[0].params.get(SEED, NOT_SET))}: "
            + ", ".join(as_name(one.label) for one in run)
            for run in self.runs
        ]


def base_models(evaluations: Sequence[Evaluation], headline: Headline) -> list[Configuration]:
    """Return the base models from which the runs began, each once, however often it was scored."""
    found: list[Evaluation] = []
    for one in evaluations:
        is_measured = BASE in one.metrics and headline.is_in(one.table, BASE)
        if is_measured and not any(_are_alike(headline, BASE, one, other) for other in found):
            found.append(one)
    keys = [key for key in differing(found) if key.startswith("model.")]
    return [Configuration(BASE, [[one]], _chosen(one, keys)) for one in found]


def configurations(evaluations: Sequence[Evaluation], headline: Headline) -> list[Configuration]:
    """Group the fine-tuned models by all parameters but the seed, and by the tokens of training.

    Revisions of one seed with the same sums are one run. Where one seed has other sums, code, data
    or the machine differ: no other seed of that configuration, so it begins a group of its own.
    """
    groups: dict[tuple[object, ...], dict[str, Run]] = {}
    for one in evaluations:
        params = tuple(sorted((key, value) for key, value in one.params.items() if key != SEED))
        seed = one.params.get(SEED, NOT_SET)
        for place in count():
            key = (params, figure(one.training, "num_target_tokens"), place)
            run = groups.setdefault(key, {}).setdefault(seed, [])
            if not run or _are_alike(headline, TUNED, one, run[0]):
                run.append(one)
                break
    keys = differing(evaluations)
    return [
        Configuration(
            TUNED,
            [runs[seed] for seed in sorted(runs, key=lambda seed: (len(seed), seed))],
            _chosen(next(iter(runs.values()))[0], keys),
        )
        for runs in groups.values()
    ]


def is_same_run(one: Evaluation, other: Evaluation) -> bool:
    """Tell whether two revisions hold one run: a commit of other files changes none of its sums."""
    return one.commit == other.commit or (
        one.params == other.params
        and one.dialogue_ids == other.dialogue_ids
        and one.table.keys() == other.table.keys()
        and all(
            np.allclose(one.table[name], other.table[name], rtol=TOLERANCE) for name in one.table
        )
    )


def _are_alike(headline: Headline, model: str, one: Evaluation, other: Evaluation) -> bool:
    names = (*headline.numerator, *headline.subtracted, *headline.denominator)
    columns = [name.format(m=model) for name in names]
    return all(np.allclose(one.table[c], other.table[c], rtol=TOLERANCE) for c in columns)


def differing(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the parameters, but for the seed, that do not have one value in all."""
    keys = sorted({key for one in evaluations for key in one.params} - {SEED})
    return [key for key in keys if len({one.params.get(key) for one in evaluations}) > 1]


def _chosen(one: Evaluation, keys: Sequence[str]) -> dict[str, str]:
    return {key: one.params.get(key, NOT_SET) for key in keys}
