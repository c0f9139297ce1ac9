"""Windows on disk as memory-mapped arrays: training's, and a folder of validation's.

``input_ids.npy``      int32 [N]    all windows, one after another
``is_target.npy``      bool  [N]    whether the token is trained, or scored
``window_starts.npy``  int64 [W+1]  window w is tokens ``window_starts[w] : window_starts[w + 1]``
``weights.npy``        float32 [N]  each target's share in the loss; not there where all are 1
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

ONES_AT_ONCE = 2**20
"""Weights that stand in memory together: four megabytes."""


@dataclass(frozen=True)
class Windows:
    """The arrays, mapped into memory."""

    input_ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    window_starts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None = None


_TYPES = {
    "input_ids": np.int32,
    "is_target": np.bool_,
    "window_starts": np.int64,
    "weights": np.float32,
}


def read_windows(folder: Path) -> Windows:
    """Map what a ``WindowWriter`` has written."""
    files = {name: folder / f"{name}.npy" for name in _TYPES}
    return Windows(
        **{name: np.load(file, mmap_mode="r") for name, file in files.items() if file.exists()}
    )


class WindowWriter:
    """Appends windows to the arrays, which never stand in memory as a whole."""

    def __init__(self, folder: Path) -> None:
        """Begin the arrays in an existing folder."""
        self._folder = folder
        self._arrays: dict[str, BinaryIO] = {}
        for name in ("input_ids", "is_target", "window_starts"):
            self._begin(name)
        self.num_windows = 0
        self.num_tokens = 0
        self._append("window_starts", [0])

    def add(
        self,
        input_ids: Sequence[int] | npt.NDArray[np.int32],
        is_target: Sequence[bool] | npt.NDArray[np.bool_],
        lengths: Sequence[int] | npt.NDArray[np.int64],
        weights: Sequence[float] | npt.NDArray[np.float32] = (),
    ) -> None:
        """Append windows that stand one after another in the first two, with their lengths.

        Without weights, each target has weight 1.
        """
        if len(weights) and "weights" not in self._arrays:
            self._begin("weights")
            self._add_ones(self.num_tokens)
        if len(weights):
            self._append("weights", weights)
        elif "weights" in self._arrays:
            self._add_ones(len(input_ids))
        self._append("input_ids", input_ids)
        self._append("is_target", is_target)
        self._append("window_starts", self.num_tokens + np.cumsum(np.asarray(lengths, np.int64)))
        self.num_windows += len(lengths)
        self.num_tokens += len(input_ids)

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the arrays' final shapes and close them."""
        with ExitStack() as stack:
            for file in self._arrays.values():
                stack.enter_context(file)
            for name, file in self._arrays.items():
                length = self.num_windows + 1 if name == "window_starts" else self.num_tokens
                file.seek(0)
                self._write_header(name, length)

    def _begin(self, name: str) -> None:
        self._arrays[name] = (self._folder / f"{name}.npy").open("wb")
        self._write_header(name, 0)

    def _add_ones(self, number: int) -> None:
        for start in range(0, number, ONES_AT_ONCE):
            self._append("weights", np.ones(min(ONES_AT_ONCE, number - start)))

    def _append(self, name: str, values: npt.ArrayLike) -> None:
        """Append values; of a full disk, numpy's ``tofile`` says nothing, or not what it is."""
        self._arrays[name].write(np.asarray(values, _TYPES[name]).tobytes())

    def _write_header(self, name: str, length: int) -> None:
        """Write an array's shape; a header has room for a longer one to be written over it."""
        np.lib.format.write_array_header_1_0(
            self._arrays[name],
            {
                "shape": (length,),
                "fortran_order": False,
                "descr": np.lib.format.dtype_to_descr(np.dtype(_TYPES[name])),
            },
        )
