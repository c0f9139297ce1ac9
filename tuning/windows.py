"""Windows on disk as three memory-mapped arrays: training's, and a folder of validation's.

``input_ids.npy``      int32 [N]    all windows, one after another
``is_target.npy``      bool  [N]    whether the token is trained, or scored
``window_starts.npy``  int64 [W+1]  window w is tokens ``window_starts[w] : window_starts[w + 1]``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Windows:
    """The three arrays, mapped into memory."""

    input_ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    window_starts: npt.NDArray[np.int64]


def read_windows(folder: Path) -> Windows:
    """Map what a ``WindowWriter`` has written."""
    names = ("input_ids", "is_target", "window_starts")
    return Windows(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


class WindowWriter:
    """Appends windows to the three arrays, which never stand in memory as a whole."""

    def __init__(self, folder: Path) -> None:
        """Begin the arrays in an existing folder."""
        self._arrays = {
            name: (folder / f"{name}.npy").open("wb")
            for name in ("input_ids", "is_target", "window_starts")
        }
        for name in self._arrays:
            self._write_header(name, 0)
        self.num_windows = 0
        self.num_tokens = 0
        np.zeros(1, np.int64).tofile(self._arrays["window_starts"])

    def add(
        self,
        input_ids: Sequence[int] | npt.NDArray[np.int32],
        is_target: Sequence[bool] | npt.NDArray[np.bool_],
        lengths: Sequence[int] | npt.NDArray[np.int64],
    ) -> None:
        """Append windows that stand one after another in the first two, with their lengths."""
        np.asarray(input_ids, np.int32).tofile(self._arrays["input_ids"])
        np.asarray(is_target, np.bool_).tofile(self._arrays["is_target"])
        stops = self.num_tokens + np.cumsum(np.asarray(lengths, np.int64))
        stops.astype(np.int64).tofile(self._arrays["window_starts"])
        self.num_windows += len(lengths)
        self.num_tokens += len(input_ids)

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the arrays' final shapes and close them."""
        for name, file in self._arrays.items():
            length = self.num_windows + 1 if name == "window_starts" else self.num_tokens
            file.seek(0)
            self._write_header(name, length)
            file.close()

    def _write_header(self, name: str, length: int) -> None:
        """Write an array's shape; a header has room for a longer one to be written over it."""
        dtype = {"input_ids": np.int32, "is_target": np.bool_, "window_starts": np.int64}[name]
        np.lib.format.write_array_header_1_0(
            self._arrays[name],
            {
                "shape": (length,),
                "fortran_order": False,
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            },
        )
