"""Windows that are at hand, as encode writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuning.encoding.cutting import Window
from tuning.windows import WindowWriter


def write_windows(folder: Path, windows: Sequence[Window]) -> None:
    """Write the arrays into an existing folder."""
    with WindowWriter(folder) as writer:
        for window in windows:
            writer.add(window.input_ids, window.is_target, [len(window.input_ids)])
