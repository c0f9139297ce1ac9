"""How far a stage has come: a bar on a terminal, elsewhere a plain line every ten seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

SECONDS_PER_LINE = 10.0


class Bar:
    """Counts what is done, and says when the rest will be."""

    def __init__(
        self, stage: str, unit: str, total: int | None, *, initial: int = 0, shown: bool = True
    ) -> None:
        """Start the clock.

        Args:
            stage: Begins the line.
            unit: What is counted, in the plural.
            total: How many there are, where that is known beforehand.
            initial: How many an earlier process has done.
            shown: Whether anything is shown.
        """
        self._stage, self._unit, self._total = stage, unit, total
        self._done = self._initial = initial
        self._start = self._last_line = time.monotonic()
        self._is_shown = shown
        self._is_line_by_line = shown and not sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=initial,
            desc=stage,
            unit=f" {unit}",
            unit_scale=total is None or total > 9999,
            dynamic_ncols=True,
            disable=not shown or self._is_line_by_line,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the bar, whatever happened."""
        self.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count more as done; the note stands behind what is left."""
        self._done += count
        if not self._is_line_by_line:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_PER_LINE:
            self._last_line = now
            print(f"{self._stage}: {self._line(now)}{note and f', {note}'}", file=sys.stderr)

    def _line(self, now: float) -> str:
        if not self._total:
            return f"{self._done:,} {self._unit}"
        done_here = self._done - self._initial
        left = (self._total - self._done) * (now - self._start) / max(1, done_here)
        return (
            f"{self._done:,} of {self._total:,} {self._unit}, "
            f"{tqdm.format_interval(int(left))} left"
        )

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._is_shown:
            tqdm.write(f"{self._stage}: {message}")

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
