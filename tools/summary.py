"""The result in a few lines: base model, fine-tuned model, change."""

from __future__ import annotations

import argparse
import json
import string
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuning.report.headlines import (
    HEADLINES,
    PRIMARY,
    WHAT_A_VERDICT_SAYS,
    headline_rows,
    what_was_declared,
)
from tuning.report.parts import rows_of_parts
from tuning.report.scored import what_was_scored
from tuning.run.errors import UserError
from tuning.run.process import run_stage

WIDTH = 80
"""Columns of a terminal."""
REPORT = "report.html"
"""The page beside the validation set's figures."""
TEST = "test.json"


def format_table(metrics: Mapping[str, Any], side: str = "validation") -> str:
    """Return a table of ``metrics/eval.json``, with what each headline's change means.

    A meaning of several words is a letter, which is explained below.
    """
    lines = [_line(side, "base", "tuned", "change", "95 % interval", "n", "")]
    by_title = {"": headline_rows(metrics)} | rows_of_parts(metrics, "sources")
    by_title |= rows_of_parts(metrics, "also")
    marks = marks_of(row.meaning for rows in by_title.values() for row in rows)
    for source, rows in by_title.items():
        for row in rows:
            (before, *_), (after, *_), (change, low, high) = row.cells
            title = f"{source}: {row.title}" if source else row.title
            cells = before, after, change, f"[{low}, {high}]", f"{row.num_dialogues:,}"
            lines.append(_line(title, *cells, marks[row.meaning]))
    before, after = (metrics[model]["num_target_tokens"] for model in ("base", "tuned"))
    tokens = f"{before:,}", f"{after:,}", f"{after - before:+,}"
    lines.append(_line("target tokens", *tokens, "", "", ""))
    notes = explained(marks)
    if metrics["set"].get("primary", PRIMARY) != PRIMARY:
        notes.append(what_was_declared(metrics))
    if missing := [one.title for one in HEADLINES if one.name not in metrics["change"]]:
        notes.append(
            f"Not measured here: {', '.join(missing)} (score.profile: "
            f"{metrics['set'].get('profile', 'default')}, or too few turns and dialogues)."
        )
    if "differ" in marks:
        notes.append(WHAT_A_VERDICT_SAYS)
    over = f"over {what_was_scored(metrics['set'], side)}, resampled whole; n: those with a share."
    return "\n".join([*lines, *(line for note in [over, *notes] for line in wrapped(note))])


def marks_of(meanings: Iterable[str]) -> dict[str, str]:
    """Return what stands for each meaning in a table: itself, or a letter for several words."""
    marks: dict[str, str] = {}
    letters = iter(string.ascii_lowercase)
    for meaning in meanings:
        if meaning not in marks:
            marks[meaning] = next(letters) if " " in meaning else meaning
    return marks


def explained(marks: Mapping[str, str]) -> list[str]:
    """Return a line for each letter."""
    return [f"{mark}: {meaning}" for meaning, mark in marks.items() if mark != meaning]


def wrapped(text: str, first: str = "", indent: str | None = None) -> list[str]:
    """Break a text between words only, so that its lines fit a terminal if its words do."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first) if indent is None else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _line(title: str, *cells: str) -> str:
    """Return a row of the table: two values, their change, its interval, n, what it means."""
    before, after, change, interval, num, meaning = cells
    last = f"{interval}{f' {num}':>{23 - len(interval)}} {meaning}"
    return f"{title:<23} {before:>7} {after:>8} {change:>8} {last}".rstrip()


def main() -> None:
    """Print the table of an evaluation."""
    parser = argparse.ArgumentParser(prog="python -m tools.summary", description=__doc__)
    parser.add_argument("metrics", type=Path, help="eval's figures, JSON")
    path = parser.parse_args().metrics
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        table = format_table(metrics, "test" if path.name == TEST else "validation")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no evaluation, as metrics/eval.json does.") from None
    print(table)
    if path.name != TEST and (page := path.with_name(REPORT)).exists():
        print(f"All of it to look at: {page}")


if __name__ == "__main__":
    run_stage("summary", main)
