"""The form of a measure: its subject, and its findings.

A measure is one module and one row of ``tuning.scoring.measures``. It asks for the nats of token
sequences, which those of all measures are read together with, and returns its own columns, figures
and curves. What becomes a headline of them is said in ``tuning.report.headlines``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tuning.dialogue import Dialogue
from tuning.evaluation_set.amounts import Amounts
from tuning.evaluation_set.plan import Plan
from tuning.results.curves import Curve
from tuning.results.dialogue_table import Column
from tuning.scoring.also_sets import AlsoSet
from tuning.scoring.nats import Scoring
from tuning.tokens.template import Template


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model, and what it is measured on."""

    name: str
    """The model's name, which begins its own columns: ``base`` or ``tuned``."""
    template: Template
    """The model's way to write turns."""
    num_visible: int
    """The most tokens that one of them sees."""
    plan: Plan
    amounts: Amounts
    example: Dialogue | None = None
    """A training dialogue that stands before the others in a measure of its own."""
    also: Sequence[AlsoSet] = ()
    """Further evaluation sets."""

    @property
    def dialogues(self) -> list[Dialogue]:
        """The evaluation set."""
        return self.plan.dialogues


@dataclass(frozen=True)
class Findings:
    """The results of one measure for one model."""

    columns: dict[str, Column] = field(default_factory=dict)
    """Sums per dialogue, ``[D]``; a model's own begin with its name, the others are the text's."""
    figures: dict[str, float | str] = field(default_factory=dict)
    """Figures that are no headlines, by their keys in ``metrics/eval.json``."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """Curves by the name of their axis."""
    also: dict[str, dict[str, Column]] = field(default_factory=dict)
    """Columns of further evaluation sets, by the set's name."""


Measure = Callable[[Subject], Scoring[Findings]]
