"""How B differs from A, or a table of many: revisions evaluated on the same dialogues."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.compare.comparison import COLUMNS, Comparison, compare
from tools.compare.files import WORKING_TREE
from tools.compare.page import as_html, table_as_html
from tools.compare.revisions import read_evaluations, read_runs
from tools.compare.table import make_table
from tools.compare.table_text import aligned, as_records
from tools.compare.table_text import as_text as table_as_text
from tools.summary import explained, marks_of, wrapped
from tuning.run.errors import UserError
from tuning.run.files import write_csv, write_text
from tuning.run.process import run_stage

NUM_RESAMPLES = 2000
THE_TEST_SET_WAS_USED = (
    "The test set was used: what is chosen by this needs other dialogues to be judged on."
)
SEED = 0
"""Fixed, so that the same two revisions always give the same answer."""


def main() -> None:
    """Read the revisions through DVC, compare, print; write the files that are asked for."""
    args = parse_arguments()
    if args.table is None:
        compare_two(args)
    else:
        compare_many(args)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=f"{__doc__} A revision is a commit, branch, tag or DVC experiment, or "
        f"{WORKING_TREE} for the files as they are; several seeds of one configuration are joined "
        "by commas.",
    )
    parser.add_argument("a", metavar="A", nargs="?", help="revision, or several joined by commas")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKING_TREE, help="%(default)s")
    parser.add_argument(
        "--table",
        metavar="REVISION",
        nargs="*",
        help="in place of A and B: all of these, or one commit (HEAD) with all its experiments",
    )
    parser.add_argument(
        "--test", action="store_true", help="on the test set, which is then used up"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write this page as well")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the table's numbers as well"
    )
    args = parser.parse_args()
    if args.table is None and args.a is None:
        parser.error("the following arguments are required: A")
    if args.table is None and args.csv is not None:
        parser.error("--csv is for --table")
    if args.table is not None and args.test:
        parser.error("--test is for one last comparison of A and B, not for --table")
    if args.table is not None and args.a is not None:
        parser.error("--table takes the place of A and B; name all revisions behind it")
    for file in (args.html, args.csv):
        if file is not None and file.is_dir():
            parser.error(f"{file} is a folder; name a file in it")
    return args


def compare_two(args: argparse.Namespace) -> None:
    """Print how B differs from A."""
    a, b = (read_evaluations(revisions(side), test=args.test) for side in (args.a, args.b))
    comparison = compare(a, b, num_resamples=NUM_RESAMPLES, seed=SEED)
    print(as_text(comparison), end="")
    if args.test:
        print("\n".join(wrapped(THE_TEST_SET_WAS_USED)))
    if args.html is not None:
        write_text(args.html, as_html(comparison))
        print(f"the same as a page: {args.html}")


def compare_many(args: argparse.Namespace) -> None:
    """Print the table of all runs."""
    names = [name for each in args.table for name in revisions(each)]
    table = make_table(*read_runs(names), seed=SEED)
    print(table_as_text(table), end="")
    if args.csv is not None:
        write_csv(args.csv, *as_records(table))
    if args.html is not None:
        write_text(args.html, table_as_html(table))


def revisions(side: str) -> list[str]:
    """Split one side of the command line into its names."""
    names = [name.strip() for name in side.split(",")]
    if not all(names):
        raise UserError(f"{side!r}: a revision is missing; join several by single commas.")
    return names


def as_text(comparison: Comparison) -> str:
    """Return the two sides, the table, and what its intervals cover, for a terminal."""
    marks = marks_of(row.verdict for row in comparison.rows)
    table = [["fine-tuned", *COLUMNS]]
    table += [[row.headline.title, *row.cells[:-1], marks[row.verdict]] for row in comparison.rows]
    lines = [
        line for letter, name in comparison.sides.items() for line in wrapped(name, f"{letter}  ")
    ]
    lines += [*wrapped(comparison.text), "", *aligned(table, left=(0, len(COLUMNS))), ""]
    about = "Δ = B − A, on the same dialogues; n: those with a share in it; the verdict is about B."
    notes = [*explained(marks), about, *comparison.notes]
    return "\n".join([*lines, *(line for note in notes for line in wrapped(note))]) + "\n"


if __name__ == "__main__":
    run_stage("compare", main)
