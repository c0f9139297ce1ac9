"""The sums per dialogue as named columns, and their form on disk: a CSV row per dialogue."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tuning.run.visible import as_name

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Column = FloatArray | IntArray
"""``[D]``, an entry per dialogue."""

Table = Mapping[str, Column]
"""Name -> column, all in one order of dialogues. A model's own columns begin with its name."""

ID = "dialogue_id"
TEXT_COLUMNS = {"num_responses", "num_bytes"}
"""The columns that every table holds, whatever the models."""


def sum_per_dialogue(dialogue: IntArray, values: Column, num_dialogues: int) -> FloatArray:
    """Sum ``values[N]`` over each dialogue, given by ``dialogue[N]``: ``[D]``, 0 without any."""
    sums = np.bincount(dialogue, values, minlength=num_dialogues)
    return sums.astype(np.float64)


def count_per_dialogue(dialogue: IntArray, values: IntArray, num_dialogues: int) -> IntArray:
    """Do as ``sum_per_dialogue``, for counts: integers stay integers."""
    return sum_per_dialogue(dialogue, values, num_dialogues).astype(np.int64)


def as_rows(
    dialogue_ids: Iterable[str], table: Table
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Header and one row per dialogue, by its name; counts stay integers."""
    columns = (column.tolist() for column in table.values())
    return [ID, *table], list(zip(map(as_name, dialogue_ids), *columns, strict=True))


def from_csv(text: str) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Dialogue ids and columns of what ``as_rows`` gave.

    Raises:
        ValueError: no such table: no or uneven rows, no ``TEXT_COLUMNS``, an id twice, no number.
    """
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise ValueError(f"not CSV, {error}") from None
    if not rows or header[:1] != [ID] or any(len(row) != len(header) for row in rows):
        raise ValueError(f"no table with a row per dialogue that begins with {ID}")
    ids, *columns = zip(*rows, strict=True)
    if len(set(ids)) != len(ids):
        raise ValueError(f"a {ID} stands there twice")
    table = {
        name: np.array(column, dtype=np.float64)
        for name, column in zip(header[1:], columns, strict=True)
    }
    if "num_responses" in table:  # of before responses were cut: each has its end
        table.setdefault("num_ends", table["num_responses"])
    if missing := TEXT_COLUMNS - table.keys():
        raise ValueError(f"there is no column {' and none '.join(sorted(missing))}")
    if broken := [name for name, column in table.items() if not np.isfinite(column).all()]:
        raise ValueError(f"not all numbers are finite: {', '.join(broken)}")
    return list(ids), table


def in_order(ids: Sequence[str], table: Table, wanted: Sequence[str]) -> Table:
    """The table's rows in another order of the same ids."""
    place = {dialogue_id: row for row, dialogue_id in enumerate(ids)}
    rows = [place[dialogue_id] for dialogue_id in wanted]
    return {name: column[rows] for name, column in table.items()}
