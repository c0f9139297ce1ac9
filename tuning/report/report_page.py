"""``metrics/report.html``: an evaluation to look at, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tuning.dialogue import Turn
from tuning.pages.environment import render
from tuning.report.call_shares import call_rows
from tuning.report.charts import Chart, draw
from tuning.report.headlines import WHAT_A_VERDICT_SAYS, headline_rows, what_was_declared
from tuning.report.parts import rows_of_parts
from tuning.report.quality import Measures
from tuning.report.scored import what_was_scored
from tuning.results.measured import ScoredText
from tuning.results.samples import shown_names
from tuning.run.visible import JOINER, visible

TEMPLATE = Path(__file__).with_name("report.html.jinja")
NATS_OF_FULL_SHADE = 8.0
FULL_SHADE = 0.55

BASELINE_TITLES = {
    "unigram": "unigrams",
    "trigram": "trigrams",
    "base_with_example": "base model behind one training dialogue",
}
TITLES = {"base": "Base model", "tuned": "Fine-tuned", "people": "People"}

Cell = tuple[str, tuple[str, str] | None]
"""A value, and the low and high end of its interval where it has one."""


@dataclass(frozen=True)
class SideBySide:
    """A context, and what base model, fine-tuned model and a person said next."""

    dialogue_id: str
    """As a name that may stand on a page."""
    context: tuple[Turn, ...]
    answer: Turn
    """A person's turn there."""
    responses: Mapping[str, ScoredText]
    """Responses by ``base``, ``tuned`` and ``people``."""

    @property
    def names(self) -> dict[str, str]:
        """What each speaker is called."""
        return shown_names([*self.context, self.answer])


@dataclass(frozen=True)
class WritingTable:
    """The quality of what was written: a row for each measure, a column for each way to write."""

    header: list[str]
    """Titles of the columns, the first one empty."""
    rows: list[tuple[str, list[Cell]]]
    """A measure's title, and its cells."""


def report_page(
    metrics: Mapping[str, Any],
    generation: Mapping[str, Any],
    writing: Mapping[str, Mapping[str, Measures]],
    charts: Sequence[Chart],
    samples: Sequence[SideBySide],
) -> str:
    """Return the page.

    Args:
        metrics: The content of ``metrics/eval.json``.
        generation: The content of ``metrics/generation.json``, of which calls are shown.
        writing: Who wrote -> how -> the quality of it.
        charts: Pictures, in order.
        samples: Responses to read.
    """
    return render(
        TEMPLATE,
        about=metrics["set"],
        what_was_scored=what_was_scored,
        baselines=metrics.get("baselines", {}),
        baseline_titles=BASELINE_TITLES,
        headlines=headline_rows(metrics),
        what_a_verdict_says=f"{what_was_declared(metrics)} {WHAT_A_VERDICT_SAYS}",
        sources=rows_of_parts(metrics, "sources"),
        also=rows_of_parts(metrics, "also"),
        example_not_read=metrics["base"].get("example_not_read"),
        pictures=[draw(chart) for chart in charts],
        writing=writing_table(writing),
        calls=call_rows(generation),
        calls_not_read=metrics["tuned"].get("calls_not_read"),
        samples=samples,
        titles=TITLES,
        parts=parts,
        seen=partial(visible, keep=f"\n{JOINER}"),
        shade=shade,
    )


def shade(nats: float) -> float:
    """Return the opacity of a piece's background."""
    return FULL_SHADE * min(max(nats, 0.0) / NATS_OF_FULL_SHADE, 1.0)


def parts(text: ScoredText) -> Iterator[tuple[str, float]]:
    """Yield each part with its nats."""
    return zip(text.parts, text.nats, strict=True)


def writing_table(writing: Mapping[str, Mapping[str, Measures]]) -> WritingTable:
    """Return the table; a dash stands where a way to write has not been measured so."""
    columns = {
        f"{TITLES.get(who, who)}, {way}": measures
        for who, ways in writing.items()
        for way, measures in ways.items()
    }
    names = dict.fromkeys(name for measures in columns.values() for name in measures.values)
    rows = [
        (name.replace("_", " "), [_cell(name, measures) for measures in columns.values()])
        for name in names
    ]
    return WritingTable(["", *columns], rows)


def _cell(name: str, measures: Measures) -> Cell:
    if name not in measures.values:
        return "–", None
    value = f"{measures.values[name]:.3f}"
    if name not in measures.intervals:
        return value, None
    low, high = measures.intervals[name]
    return value, (f"{low:.3f}", f"{high:.3f}")
