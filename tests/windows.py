"""Windows that are at hand, as encode writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuning.encoding.cutting import Window
from tuning.windows import WindowWriter


def write_windows(folder: Path, windows: Sequence[Window], weights: Sequence[float] = ()) -> None:
    """Write the arrays into an existing folder.

    Args:
        folder: Gets the arrays.
        windows: In order.
        weights: That of each window's targets; without any, 1.
    """
    with WindowWriter(folder) as writer:
        for number, window in enumerate(windows):
            length = len(window.input_ids)
            shares = [weights[number]] * length if weights else []
            writer.add(window.input_ids, window.is_target, [length], shares)
