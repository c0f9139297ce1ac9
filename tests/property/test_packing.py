"""Packing puts every window in one row, changes no token, and shows it to no other window."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thorough import few_or_all
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.packing import IGNORE_INDEX, PAD_SEGMENT, attention_mask, pack
from tuning.training.rows import PackedRows

MAX_LENGTH = 16
PAD_ID = 3

windows = st.integers(1, MAX_LENGTH).flatmap(
    lambda length: st.builds(
        Window,
        st.lists(st.integers(0, 60_000), min_size=length, max_size=length),
        st.lists(st.booleans(), min_size=length, max_size=length),
    )
)


@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c)), st.just(c))))
@settings(max_examples=few_or_all(150))
def test_every_window_is_in_one_row_and_fits(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rows = pack(lengths, capacity)
    assert sorted(window for row in rows for window in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[window] for window in row) <= capacity for row in rows)
    assert rows == pack(lengths, capacity)
    half_full = [row for row in rows if 2 * sum(lengths[w] for w in row) <= capacity]
    assert len(half_full) <= 1  # else the two would have been put together


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """The definition: look at every row for every window, longest window first."""
    rows: list[list[int]] = []
    free: list[int] = []
    for window in sorted(range(len(lengths)), key=lambda window: (-lengths[window], window)):
        fitting = [(free[row], row) for row in range(len(rows)) if free[row] >= lengths[window]]
        if not fitting:
            rows.append([])
            free.append(capacity)
        row = min(fitting)[1] if fitting else len(rows) - 1
        rows[row].append(window)
        free[row] -= lengths[window]
    return rows


@given(
    st.integers(1, 40).flatmap(
        lambda c: st.tuples(st.lists(st.integers(1, c), max_size=80), st.just(c))
    )
)
@settings(max_examples=few_or_all(300))
def test_rows_are_those_of_the_definition(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert pack(lengths, capacity) == best_fit_decreasing(lengths, capacity)


def test_a_window_goes_to_the_fullest_row_that_has_room() -> None:
    # 7 and 6 open rows; 4 fits beside 6 exactly; 3 beside 7; the first 2 needs a row, and the
    # second 2 joins it.
    assert pack([2, 7, 3, 6, 2, 4], 10) == [[1, 2], [3, 5], [0, 4]]
    # 5 opens a third row; 2 goes where 2 are free, not to the first row (3 free).
    assert pack([7, 8, 5, 2], 10) == [[1, 3], [0], [2]]


def test_windows_of_equal_length_keep_their_order() -> None:
    assert pack([4, 4, 4, 4, 4], 8) == [[0, 1], [2, 3], [4]]


def test_the_mask_of_the_row_in_the_docstring_and_of_a_row_of_pads() -> None:
    mask = attention_mask(torch.tensor([[1, 1, 1, 2, 2, -1], [-1] * 6]))
    assert mask.shape == (2, 1, 6, 6)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert torch.equal(mask[1, 0], torch.ones(6, 6, dtype=torch.bool).tril())


@given(st.lists(windows, min_size=1, max_size=12), st.booleans())
@settings(max_examples=few_or_all(60))
def test_rows_give_back_the_windows_that_were_written(written: list[Window], packing: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_windows(Path(folder), written)
        rows = PackedRows(Path(folder), max_length=MAX_LENGTH, packing=packing, pad_token_id=PAD_ID)
        read: dict[int, Window] = {}
        for number in range(len(rows)):
            row = rows[number]
            assert {key: (value.shape, value.dtype) for key, value in row.items()} == dict.fromkeys(
                ("input_ids", "labels", "position_ids", "segment_ids"),
                (torch.Size([MAX_LENGTH]), torch.int64),
            )
            for segment, window in enumerate(rows.rows[number], start=1):
                inside = row["segment_ids"] == segment
                ids, labels = row["input_ids"][inside], row["labels"][inside]
                is_target = labels != IGNORE_INDEX
                assert torch.equal(labels[is_target], ids[is_target])
                assert row["position_ids"][inside].tolist() == list(range(len(ids)))
                read[window] = Window(ids.tolist(), is_target.tolist())
            num_real = sum(len(written[window].input_ids) for window in rows.rows[number])
            assert (row["segment_ids"][num_real:] == PAD_SEGMENT).all()
            assert (row["input_ids"][num_real:] == PAD_ID).all()
            assert (row["labels"][num_real:] == IGNORE_INDEX).all()
        assert [read[number] for number in range(len(written))] == written
        assert packing or len(rows) == len(written)
        num_tokens = sum(len(window.input_ids) for window in written)
        assert rows.num_target_tokens == sum(sum(window.is_target) for window in written)
        assert rows.packing_efficiency == num_tokens / (len(rows) * MAX_LENGTH)


def test_the_row_in_the_docstring(tmp_path: Path) -> None:
    write_windows(
        tmp_path,
        [Window([10, 11, 12], [False, True, True]), Window([20, 21], [False, True])],
    )
    rows = PackedRows(tmp_path, max_length=6, packing=True, pad_token_id=PAD_ID)
    assert len(rows) == 1
    assert {key: value.tolist() for key, value in rows[0].items()} == {
        "input_ids": [10, 11, 12, 20, 21, PAD_ID],
        "segment_ids": [1, 1, 1, 2, 2, -1],
        "position_ids": [0, 1, 2, 0, 1, 0],
        "labels": [-100, 11, 12, -100, 21, -100],
    }


def test_the_arrays_on_disk_are_compact(tmp_path: Path) -> None:
    write_windows(tmp_path, [Window([1, 2, 3], [False, True, True]), Window([4], [False])])
    arrays = {path.stem: np.load(path) for path in tmp_path.iterdir()}
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "input_ids": "int32",
        "is_target": "bool",
        "window_starts": "int64",
    }
    assert arrays["window_starts"].tolist() == [0, 3, 4]


@pytest.mark.parametrize("packing", [True, False])
def test_no_window_makes_no_row(tmp_path: Path, packing: bool) -> None:
    write_windows(tmp_path, [])
    rows = PackedRows(tmp_path, max_length=6, packing=packing, pad_token_id=PAD_ID)
    assert (len(rows), rows.num_target_tokens, rows.packing_efficiency) == (0, 0, 0)


@pytest.mark.parametrize("num_rows", [1, 2, 4])
def test_a_short_batch_is_filled_with_rows_that_have_no_target(
    tmp_path: Path, num_rows: int
) -> None:
    write_windows(tmp_path, [Window([9] * 5, [False] + [True] * 4)] * num_rows)
    rows = PackedRows(tmp_path, max_length=6, packing=False, pad_token_id=PAD_ID)
    real = [rows[number] for number in range(len(rows))]
    batch = rows.collate(real, batch_size=4)
    for key, value in batch.items():
        assert value.shape == (4, 6)
        assert torch.equal(value[:num_rows], torch.stack([row[key] for row in real]))
    assert (batch["labels"][num_rows:] == IGNORE_INDEX).all()
    assert (batch["input_ids"][num_rows:] == PAD_ID).all()
    assert (batch["segment_ids"][num_rows:] == PAD_SEGMENT).all()
    assert len(real) == num_rows
