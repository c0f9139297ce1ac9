"""A table of many runs for a terminal of 80 columns, and as rows of a CSV file."""

from __future__ import annotations

from collections.abc import Sequence

from tools.compare.table import COLUMNS, NOT_IN, Pair, Row, RunTable
from tools.summary import WIDTH, wrapped
from tuning.run.visible import as_name, visible

MARKS = (
    "Row against column: < lower, > higher, . no difference shown, ? too few dialogues, – not "
    "comparable."
)
CSV_COLUMNS = (
    "row",
    "against",
    "configuration",
    "revisions",
    "value",
    "low",
    "high",
    "verdict",
    "num_runs",
    "num_dialogues",
    "train_minutes",
    "score_minutes",
    "peak_memory_gb",
    "num_target_tokens",
)


def as_text(table: RunTable) -> str:
    """Return the rows, what their letters stand for, all pairs, notes, and what is left out."""
    cells = [[row.letter, *row.cells(table.headline)] for row in table.rows]
    blocks = [
        wrapped(f"{table.title}: {table.text}"),
        aligned([*_in_two_lines(["", *COLUMNS]), *cells], left=(0,)),
        [line for row in table.rows for line in _named(row)],
    ]
    if table.pairs:
        pairs = [[pair.name, *pair.cells(table.headline)] for pair in table.pairs]
        blocks += [[*wrapped(MARKS), "", *_matrix(table)], aligned(pairs, left=(0, 3))]
    blocks.append([line for note in table.notes for line in wrapped(note)])
    if table.left_out:
        reasons = [line for reason in table.left_out for line in wrapped(visible(reason), "- ")]
        blocks.append([NOT_IN, *reasons])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def as_records(table: RunTable) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of a CSV file, numbers in full: first the table's, then the pairs.

    A pair names two letters, ``row`` and ``against``, and its value is the change. Each parameter
    in which configurations differ is a column.
    """
    keys = sorted({key for row in table.rows for key in row.configuration.params})
    records = [_row_record(row, keys) for row in table.rows]
    records += [_pair_record(pair) + [None] * len(keys) for pair in table.pairs]
    return [*CSV_COLUMNS, *map(as_name, keys)], records


def _row_record(row: Row, keys: Sequence[str]) -> list[object]:
    one, cost = row.configuration, row.cost
    return [
        row.letter,
        None,
        one.name,
        "; ".join(one.revisions),
        row.estimate.value,
        row.estimate.low,
        row.estimate.high,
        None,
        len(one.runs),
        row.num_dialogues,
        cost.train_minutes,
        cost.score_minutes,
        cost.peak_memory_gb,
        cost.num_target_tokens,
        *(as_name(one.params.get(key, "")) for key in keys),
    ]


def _pair_record(pair: Pair) -> list[object]:
    change = pair.change
    numbers = (None,) * 3 if change is None else (change.value, change.low, change.high)
    return [
        pair.row.letter,
        pair.against.letter,
        None,
        None,
        *numbers,
        pair.verdict,
        pair.num_runs,
        pair.num_dialogues,
        *(None,) * 4,
    ]


def _named(row: Row) -> list[str]:
    """Return the letter with what it stands for, and its revisions below."""
    indent = " " * (len(row.letter) + 2)
    lines = wrapped(row.configuration.name, f"{row.letter}  ", indent)
    return lines + wrapped("; ".join(row.configuration.revisions), indent)


def _matrix(table: RunTable) -> list[str]:
    """Return a mark for every pair, in as many blocks of columns as the width needs."""
    marks = {(pair.row.letter, pair.against.letter): _mark(pair) for pair in table.pairs}
    letters = [row.letter for row in table.rows]
    width = len(letters[-1]) + 1
    num_columns = WIDTH // width - 1
    lines = []
    for start in range(0, len(letters) - 1, num_columns):
        columns = letters[:-1][start : start + num_columns]
        for name in ["", *letters[start + 1 :]]:
            cells = [marks.get((name, other), "") if name else other for other in columns]
            lines.append("".join(f"{cell:<{width}}" for cell in [name, *cells]).rstrip())
    return lines


def _mark(pair: Pair) -> str:
    if pair.change is None:
        return "–"
    if pair.verdict in ("differ", "better", "worse"):
        return "<" if pair.change.value < 0 else ">"
    return "." if pair.verdict == "no difference shown" else "?"


def _in_two_lines(titles: Sequence[str]) -> list[list[str]]:
    """Return titles as two lines of a header, the last word of each in the lower one."""
    parts = [title.rpartition(" ") for title in titles]
    return [[first for first, _, _ in parts], [last for _, _, last in parts]]


def aligned(lines: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    """Return columns with two blanks between them, or one where two are too many."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= WIDTH else " "
    return [
        gap.join(
            f"{cell:{'<' if place in left else '>'}{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
