"""Windows on disk as three memory-mapped arrays, and the PyTorch dataset of packed rows.

``input_ids.npy``      int32 [N]    all windows, one after another
``is_target.npy``      bool  [N]    whether the token is trained
``window_starts.npy``  int64 [W+1]  window w is tokens ``window_starts[w] : window_starts[w + 1]``
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.encoding.packing import IGNORE_INDEX, PAD_SEGMENT, pack
from stages.encoding.windows import Window


def write_windows(folder: Path, windows: Sequence[Window]) -> None:
    """Write the three arrays into an existing folder."""
    starts = np.cumsum([0] + [len(window.input_ids) for window in windows], dtype=np.int64)
    input_ids = np.concatenate([np.asarray(window.input_ids, np.int32) for window in windows])
    is_target = np.concatenate([np.asarray(window.is_target, np.bool_) for window in windows])
    np.save(folder / "input_ids.npy", input_ids)
    np.save(folder / "is_target.npy", is_target)
    np.save(folder / "window_starts.npy", starts)


class PackedRows(Dataset[dict[str, Tensor]]):
    """Rows of ``max_length`` tokens, each of several windows (or of one, without packing)."""

    def __init__(self, folder: Path, *, max_length: int, packing: bool, pad_token_id: int) -> None:
        """Map the arrays into memory and lay out the rows."""
        self.input_ids = np.load(folder / "input_ids.npy", mmap_mode="r")
        self.is_target = np.load(folder / "is_target.npy", mmap_mode="r")
        self.window_starts = np.load(folder / "window_starts.npy", mmap_mode="r")
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        lengths = np.diff(self.window_starts).tolist()
        self.rows = pack(lengths, max_length) if packing else [[w] for w in range(len(lengths))]

    @property
    def num_target_tokens(self) -> int:
        """Tokens trained once per epoch."""
        return int(self.is_target.sum())

    @property
    def packing_efficiency(self) -> float:
        """Real tokens over row capacity."""
        return len(self.input_ids) / (len(self.rows) * self.max_length)

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``input_ids``, ``labels``, ``position_ids``, ``segment_ids``, each int64 ``[T]``.

        Labels are unshifted: ``labels[i]`` is ``input_ids[i]`` or ``IGNORE_INDEX``.
        """
        row = self.empty_row()
        start = 0
        for segment, window in enumerate(self.rows[index], start=1):
            span = slice(self.window_starts[window], self.window_starts[window + 1])
            ids = torch.from_numpy(self.input_ids[span].astype(np.int64))
            is_target = torch.from_numpy(self.is_target[span].astype(np.bool_))
            end = start + len(ids)
            row["input_ids"][start:end] = ids
            row["labels"][start:end] = torch.where(is_target, ids, IGNORE_INDEX)
            row["position_ids"][start:end] = torch.arange(len(ids))
            row["segment_ids"][start:end] = segment
            start = end
        return row

    def empty_row(self) -> dict[str, Tensor]:
        """A row of pad tokens without a target."""
        zeros = torch.zeros(self.max_length, dtype=torch.int64)
        return {
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
