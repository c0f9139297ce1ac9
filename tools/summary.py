"""The result in a few lines: base model, fine-tuned model, change."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.pages.words import counted
from tuning.report.headlines import HEADLINES, meaning
from tuning.report.sources import source_rows
from tuning.results.bootstrap import FEWEST_DIALOGUES
from tuning.run.process import run_stage


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return a table of ``metrics/eval.json``, with what each headline's change means."""
    base, tuned, change = metrics["base"], metrics["tuned"], metrics["change"]
    num_dialogues = metrics["set"]["num_dialogues"]
    one_template = base.get("template") == tuned.get("template")
    lines = [f"{'validation':<27}{'base':>10}{'fine-tuned':>12}{'change':>10}  95 % interval"]
    for headline in HEADLINES:
        name = headline.name
        if name in base and name in tuned:
            difference = headline.shown(tuned[name] - base[name], signed=True)
            line = (
                f"{headline.title:<27}{headline.shown(base[name]):>10}"
                f" {headline.shown(tuned[name]):>11} {difference:>9}"
            )
            if f"{name}_low" in change:
                interval = headline.shown_interval(change[f"{name}_low"], change[f"{name}_high"])
                text = meaning(headline, change, num_dialogues, one_template)
                line += f"  {interval:<20}  {text}"
            lines.append(line)
    for name, rows in source_rows(metrics).items():
        for row in rows:
            (before, *_), (after, *_), (change, low, high) = row.cells
            title = f"{name}: {row.title}"
            interval = f"[{low}, {high}]"
            lines.append(
                f"{title:<27}{before:>10} {after:>11} {change:>9}  {interval:<20}  {row.meaning}"
            )
    lines.append(
        f"{'target tokens':<27}{base['num_target_tokens']:>10,} {tuned['num_target_tokens']:>11,}"
        f" {tuned['num_target_tokens'] - base['num_target_tokens']:>+9,}"
    )
    over = counted(num_dialogues, "dialogue")
    if num_dialogues < FEWEST_DIALOGUES:
        lines.append(f"over {over}: fewer than {FEWEST_DIALOGUES} say little")
    else:
        lines.append(f"over {over}, resampled whole")
    return "\n".join(lines)


def main() -> None:
    """Print the table of an evaluation."""
    parser = argparse.ArgumentParser(prog="python -m tools.summary", description=__doc__)
    parser.add_argument("metrics", type=Path, help="eval's figures, JSON")
    path = parser.parse_args().metrics
    print(format_table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    run_stage("summary", main)
