"""A comparison, or a table of many runs, as one HTML page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.compare.comparison import COLUMNS, Comparison
from tools.compare.table import COLUMNS as TABLE_COLUMNS
from tools.compare.table import NOT_IN, RunTable
from tuning.pages.environment import render
from tuning.run.visible import visible

TEMPLATE = Path(__file__).with_name("compare.html.jinja")
TABLE_TEMPLATE = Path(__file__).with_name("table.html.jinja")

Section = tuple[str, list[str]]
"""A title and its lines."""


def as_html(comparison: Comparison) -> str:
    """Return the page: the table of ``as_text``, then samples of each side's first run."""
    first = comparison.a[0], comparison.b[0]
    missing = [one.label for one in first if one.samples is None]
    ours, theirs = (parse_samples(one.samples or "") for one in first)
    return render(
        TEMPLATE,
        columns=COLUMNS,
        comparison=comparison,
        missing=missing,
        is_sampled=any(one.samples != "" for one in first),
        samples={name: [*pair(ours[name], theirs[name])] for name in ours if name in theirs},
    )


def table_as_html(table: RunTable) -> str:
    """Return the page: the rows, the matrix of all pairs, what they mean, and what is left out."""
    matrix = [(row, [pair for pair in table.pairs if pair.row is row]) for row in table.rows[1:]]
    return render(
        TABLE_TEMPLATE,
        columns=TABLE_COLUMNS,
        table=table,
        matrix=matrix,
        not_in=NOT_IN,
        seen=visible,
    )


def pair(ours: Sequence[Section], theirs: Sequence[Section]) -> Iterator[tuple[Section, ...]]:
    """Yield a dialogue's sections: one where both sides are equal, else A's and B's."""
    other = dict(theirs)
    for title, lines in ours:
        if other.get(title) == lines:
            yield ((title, lines or ["–"]),)
        else:
            yield (f"{title}, A", lines or ["–"]), (f"{title}, B", other.get(title) or ["–"])


def parse_samples(markdown: str) -> dict[str, list[Section]]:
    """Return each dialogue's sections by its id, from the file of samples that eval writes.

    ``## id`` begins a dialogue, ``**title**`` a section, ``- speaker: `text``` is a line of it.
    """
    dialogues: dict[str, list[Section]] = {}
    sections: list[Section] = []
    for line in markdown.splitlines():
        if line.startswith("## "):
            sections = dialogues.setdefault(line.removeprefix("## "), [])
        elif title := re.fullmatch(r"\*\*(.+)\*\*", line):
            sections.append((title[1], []))
        elif line.startswith("- ") and sections:
            turn = re.fullmatch(r"- (.*?): `(.*)`", line)
            sections[-1][1].append(f"{turn[1]}: {turn[2]}" if turn else line[2:])
    return dialogues
