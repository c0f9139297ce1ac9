"""The PyTorch dataset of packed rows, on the windows that encode wrote."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tuning.packing import IGNORE_INDEX, PAD_SEGMENT, pack
from tuning.windows import read_windows


class PackedRows(Dataset[dict[str, Tensor]]):
    """Rows of ``max_length`` tokens, each of several windows (or of one, without packing)."""

    def __init__(
        self,
        folder: Path,
        *,
        max_length: int,
        packing: bool,
        pad_token_id: int,
        num_windows: int | None = None,
    ) -> None:
        """Map the arrays into memory and lay out the rows.

        Args:
            folder: Holds the three arrays.
            max_length: Tokens per row.
            packing: Several windows per row, or one.
            pad_token_id: Fills the rows.
            num_windows: Take only so many windows, spread evenly over all; None takes all.
        """
        self.windows = read_windows(folder)
        self.max_length = max_length
        self.packing = packing
        self.pad_token_id = pad_token_id
        lengths = np.diff(self.windows.window_starts)
        wanted = len(lengths) if num_windows is None else min(num_windows, len(lengths))
        windows = [index * len(lengths) // wanted for index in range(wanted)]
        places = (
            pack(lengths[windows].tolist(), max_length) if packing else [[i] for i in range(wanted)]
        )
        self.rows = [[windows[place] for place in row] for row in places]
        self._num_tokens = int(lengths[windows].sum())

    @cached_property
    def num_target_tokens(self) -> int:
        """Tokens trained once per epoch."""
        return sum(self.num_targets(index) for index in range(len(self)))

    def num_targets(self, index: int) -> int:
        """Tokens of one row that are trained."""
        return sum(int(self.windows.is_target[span].sum()) for span in self._spans(index))

    def total_weight(self, index: int) -> float:
        """The weights of one row's targets, summed: their number, where all have weight 1."""
        weights = self.windows.weights
        if weights is None:
            return self.num_targets(index)
        is_target = self.windows.is_target
        return sum(
            float(weights[span].sum(where=is_target[span], dtype=np.float64))
            for span in self._spans(index)
        )

    def _spans(self, index: int) -> list[slice]:
        """Return where the windows of one row are in the arrays."""
        starts = self.windows.window_starts
        return [slice(starts[window], starts[window + 1]) for window in self.rows[index]]

    @property
    def packing_efficiency(self) -> float:
        """Real tokens over row capacity; 0 without a row."""
        return self._num_tokens / max(1, len(self.rows) * self.max_length)

    def __len__(self) -> int:
        """The number of rows; an epoch takes each once."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``input_ids``, ``labels``, ``position_ids``, ``segment_ids``, each int64 ``[T]``.

        Labels are unshifted: ``labels[i]`` is ``input_ids[i]`` or ``IGNORE_INDEX``. And float32
        ``weights``, if the windows have any; those of no targets mean nothing.
        """
        row = self.empty_row()
        start = 0
        for segment, span in enumerate(self._spans(index), start=1):
            ids = torch.from_numpy(self.windows.input_ids[span].astype(np.int64))
            is_target = torch.from_numpy(self.windows.is_target[span].astype(np.bool_))
            end = start + len(ids)
            row["input_ids"][start:end] = ids
            row["labels"][start:end] = torch.where(is_target, ids, IGNORE_INDEX)
            row["position_ids"][start:end] = torch.arange(len(ids))
            row["segment_ids"][start:end] = segment
            if self.windows.weights is not None:
                row["weights"][start:end] = torch.from_numpy(self.windows.weights[span].copy())
            start = end
        return row

    def empty_row(self) -> dict[str, Tensor]:
        """A row of pad tokens without a target."""
        zeros = torch.zeros(self.max_length, dtype=torch.int64)
        weights = {} if self.windows.weights is None else {"weights": zeros.float()}
        return weights | {
            "input_ids": torch.full_like(zeros, self.pad_token_id),
            "labels": torch.full_like(zeros, IGNORE_INDEX),
            "position_ids": zeros,
            "segment_ids": torch.full_like(zeros, PAD_SEGMENT),
        }

    def collate(self, rows: list[dict[str, Tensor]], batch_size: int) -> dict[str, Tensor]:
        """Stack rows to ``[batch_size, T]``; a short last batch is filled with empty rows.

        One shape for every batch means that compiled code is compiled once. Empty rows hold no
        target, so they change no loss.
        """
        rows = rows + [self.empty_row()] * (batch_size - len(rows))
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
