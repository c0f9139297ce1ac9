"""How B differs from A: two evaluated revisions on the same dialogues, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.compare.comparison import COLUMNS, Comparison, compare
from tools.compare.page import as_html
from tools.compare.revisions import WORKING_TREE, read_evaluations
from tuning.run.errors import UserError
from tuning.run.files import write_text
from tuning.run.process import run_stage

NUM_RESAMPLES = 2000
SEED = 0
"""Fixed, so that the same two revisions always give the same answer."""


def main() -> None:
    """Read both sides through DVC, compare, print; write the page if one is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=f"{__doc__} A revision is a commit, branch, tag or DVC experiment, or "
        f"{WORKING_TREE} for the files as they are; several seeds of one configuration are joined "
        "by commas.",
    )
    parser.add_argument("a", metavar="A", help="revision, or several joined by commas")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKING_TREE, help="%(default)s")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write this page as well")
    args = parser.parse_args()
    a, b = (read_evaluations(revisions(side)) for side in (args.a, args.b))
    comparison = compare(a, b, num_resamples=NUM_RESAMPLES, seed=SEED)
    print(as_text(comparison), end="")
    if args.html is not None:
        write_text(args.html, as_html(comparison))
        print(f"the same with sample dialogues: {args.html}")


def revisions(side: str) -> list[str]:
    """Split one side of the command line into its names."""
    names = [name.strip() for name in side.split(",")]
    if not all(names):
        raise UserError(f"{side!r}: a revision is missing; join several by single commas.")
    return names


def as_text(comparison: Comparison) -> str:
    """Return the two sides, the table, and what its intervals cover, for a terminal."""
    table = [["fine-tuned", *COLUMNS]]
    table += [[row.headline.title, *row.cells] for row in comparison.rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [f"{letter}  {name}" for letter, name in comparison.sides.items()]
    lines += [comparison.text, ""]
    for title, *numbers, verdict in table:
        cells = [title.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, verdict]))
    about = "Δ = B − A, on the same dialogues; n: those with a share in it; the verdict is about B."
    lines += ["", about, *comparison.notes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage("compare", main)
