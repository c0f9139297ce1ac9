"""The result in a few lines: base model, fine-tuned model, change."""

from __future__ import annotations

import argparse
import json
import string
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.report.headlines import WHAT_A_VERDICT_SAYS, headline_rows
from tuning.report.parts import rows_of_parts
from tuning.report.scored import what_was_scored
from tuning.run.process import run_stage

WIDTH = 80
"""Columns of a terminal."""
REPORT = "report.html"
"""The page beside the figures."""


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return a table of ``metrics/eval.json``, with what each headline's change means.

    A meaning of several words is a letter, which is explained below.
    """
    lines = [_line("validation", "base", "tuned", "change", "95 % interval", "n", "")]
    by_title = {"": headline_rows(metrics)} | rows_of_parts(metrics, "sources")
    by_title |= rows_of_parts(metrics, "also")
    letters: dict[str, str] = {}
    for source, rows in by_title.items():
        for row in rows:
            (before, *_), (after, *_), (change, low, high) = row.cells
            title = f"{source}: {row.title}" if source else row.title
            interval, number, meaning = f"[{low}, {high}]", f"{row.num_dialogues:,}", row.meaning
            if " " in meaning:
                meaning = letters.setdefault(meaning, string.ascii_lowercase[len(letters)])
            lines.append(_line(title, before, after, change, interval, number, meaning))
    before, after = (metrics[model]["num_target_tokens"] for model in ("base", "tuned"))
    tokens = f"{before:,}", f"{after:,}", f"{after - before:+,}"
    lines.append(_line("target tokens", *tokens, "", "", ""))
    notes = [f"{letter}: {meaning}" for meaning, letter in letters.items()]
    notes.append(WHAT_A_VERDICT_SAYS)
    over = f"over {what_was_scored(metrics['set'])}, resampled whole; n: those with a share."
    return "\n".join([*lines, *(line for note in [over, *notes] for line in _wrapped(note))])


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, WIDTH)


def _line(title: str, *cells: str) -> str:
    """Return a row of the table: two values, their change, its interval, n, what it means."""
    widths = (">8", ">8", ">8", "<18", ">4", "")
    shown = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{title:<23} {' '.join(shown)}".rstrip()


def main() -> None:
    """Print the table of an evaluation."""
    parser = argparse.ArgumentParser(prog="python -m tools.summary", description=__doc__)
    parser.add_argument("metrics", type=Path, help="eval's figures, JSON")
    path = parser.parse_args().metrics
    print(format_table(json.loads(path.read_text(encoding="utf-8"))))
    if (page := path.with_name(REPORT)).exists():
        print(f"All of it to look at: {page}")


if __name__ == "__main__":
    run_stage("summary", main)
