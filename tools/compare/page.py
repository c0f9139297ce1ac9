"""A comparison as one HTML page that needs nothing else, online or offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from tools.compare.comparison import COLUMNS, Comparison, Row
from tuning.report.page import as_page

Section = tuple[str, list[str]]
"""A title and its lines."""

_STYLE = """
body { max-width: 66rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: 0 0 .8rem; }
dt { font-weight: 700; }
dd { margin: 0; }
td:last-child, th:last-child { text-align: left; }
td:nth-child(5) { white-space: nowrap; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
.turn { margin: 0 0 .25rem; }
@media (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, th, td { display: block; }
  tr { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 .8rem; padding: .4rem .7rem; }
  tbody th, tbody td { border: 0; padding: .1rem 0; text-align: left; }
  td { display: flex; justify-content: space-between; gap: 1rem; }
  td::before { content: attr(data-label); color: var(--muted); }
  .sides { grid-template-columns: 1fr; gap: .6rem; }
}
"""


def as_html(comparison: Comparison) -> str:
    """The table of ``comparison_text``, then sample dialogues of each side's first run."""
    sides = "".join(
        f"<dt>{letter}</dt><dd>{escape(name)}</dd>\n" for letter, name in comparison.sides.items()
    )
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("fine-tuned", *COLUMNS))
    rows = "".join(map(_row, comparison.rows))
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in comparison.notes)
    return as_page(
        "Comparison of two evaluations",
        _STYLE,
        f"<h1>Is B better than A?</h1>\n<dl>\n{sides}</dl>\n<p>{escape(comparison.text)}</p>\n"
        f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        '<p class="note">Δ = B − A, on the same dialogues; the verdict is about B. The detectable '
        "Δ is the smallest that such a comparison would find four times out of five.</p>\n"
        f"{notes}<h2>Sample dialogues</h2>\n{_samples(comparison)}",
    )


def _row(row: Row) -> str:
    cells = "".join(
        f'<td data-label="{escape(label)}"><span'
        f"{_class(cell) if label == COLUMNS[-1] else ''}>{escape(cell)}</span></td>"
        for label, cell in zip(COLUMNS, row.cells, strict=True)
    )
    return f'<tr><th scope="row">{escape(row.headline.title)}</th>{cells}</tr>\n'


def _class(verdict: str) -> str:
    return f' class="{verdict}"' if verdict in ("better", "worse") else ""


def _samples(comparison: Comparison) -> str:
    a, b = comparison.a[0], comparison.b[0]
    missing = [one.label for one in (a, b) if one.samples is None]
    if missing:
        return (
            f"<p>DVC's cache has none of {escape(' and '.join(missing))}; dvc pull or dvc repro "
            "brings them.</p>\n"
        )
    ours, theirs = parse_samples(a.samples or ""), parse_samples(b.samples or "")
    articles = [
        _article(dialogue_id, sections, theirs[dialogue_id])
        for dialogue_id, sections in ours.items()
        if dialogue_id in theirs
    ]
    return "".join(articles) or "<p>The two sides continued no dialogue in common.</p>\n"


def _article(dialogue_id: str, ours: Sequence[Section], theirs: Sequence[Section]) -> str:
    """One dialogue; what is equal on both sides stands there once."""
    parts = []
    other = dict(theirs)
    for title, lines in ours:
        if other.get(title) == lines:
            parts.append(_section(title, lines))
        else:
            left, right = _section(f"{title}, A", lines), _section(f"{title}, B", other.get(title))
            parts.append(f'<div class="sides"><div>{left}</div><div>{right}</div></div>\n')
    return f"<article>\n<h3>{escape(dialogue_id)}</h3>\n{''.join(parts)}</article>\n"


def _section(title: str, lines: Sequence[str] | None) -> str:
    turns = "".join(f'<p class="turn" dir="auto">{escape(line)}</p>\n' for line in lines or ["–"])
    return f"<h4>{escape(title)}</h4>\n{turns}"


def parse_samples(markdown: str) -> dict[str, list[Section]]:
    """Dialogue id -> its sections, from the page that ``generation`` writes.

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
