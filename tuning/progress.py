"""How far a stage has come: a bar on a terminal, elsewhere a plain line every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

SECONDS_PER_LINE = 10.0
SECONDS_PER_LOOK = 1.0
SECONDS_TO_STAY = 1.0
"""A bar of a shorter time leaves the terminal as it was."""


class Bar:
    """Counts what is done, and says when the rest will be."""

    def __init__(
        self, stage: str, unit: str, total: int | None, *, initial: int = 0, shown: bool = True
    ) -> None:
        """Start the clock.

        Args:
            stage: Begins the line; maybe with what of the stage it is.
            unit: What is counted, in the plural.
            total: How many there are, where that is known beforehand.
            initial: How many an earlier process has done.
            shown: Whether anything is shown.
        """
        self._stage, self._unit, self._total = stage, unit, total
        self._done = self._initial = initial
        self._start = self._last_line = time.monotonic()
        self._is_shown = shown
        self._file = sys.stderr  # as it is now, whatever it becomes while others work
        self._is_line_by_line = shown and not self._file.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=initial,
            desc=stage,
            unit=f" {unit}",
            unit_scale=total is None or total > 9999,
            dynamic_ncols=True,
            file=self._file,
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

    def update(self, count: int = 1, note: str = "", *, is_usual: bool = True) -> None:
        """Count more as done; the note stands behind what is left.

        What is not usual says nothing of how long the rest takes.
        """
        self._done += count
        if not is_usual:
            self._initial, self._start = self._done, time.monotonic()
        if not self._is_line_by_line:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_PER_LINE:
            self._last_line = now
            print(f"{self._stage}: {self._line(now)}{note and f', {note}'}", file=self._file)

    def _line(self, now: float) -> str:
        if not self._total:
            return f"{self._done:,} {self._unit}"
        line = f"{self._done:,} of {self._total:,} {self._unit}"
        done_here = self._done - self._initial
        if not done_here:
            return line
        left = (self._total - self._done) * (now - self._start) / done_here
        return f"{line}, {tqdm.format_interval(int(left))} left"

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._is_shown:
            tqdm.write(f"{self._stage}: {message}")

    def close(self) -> None:
        """End the bar."""
        self._bar.leave = time.monotonic() - self._start >= SECONDS_TO_STAY
        self._bar.close()


@contextmanager
def watched(
    stage: str, unit: str, total: int | None, count: Callable[[], int], *, shown: bool = True
) -> Iterator[None]:
    """Show how far work is that says nothing itself: ``count`` is asked now and then what is done.

    It is asked beside the work, in a thread that ends with it.
    """
    is_over = Event()

    def watch() -> None:
        done = 0
        while not is_over.wait(SECONDS_PER_LOOK):
            more = max(0, count() - done)
            done += more
            bar.update(more)

    with Bar(stage, unit, total, shown=shown) as bar:
        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


@contextmanager
def waiting(stage: str, *, shown: bool = True) -> Iterator[None]:
    """Show the seconds of work of which nobody knows how much there is."""
    start = time.monotonic()
    with watched(stage, "seconds", None, lambda: int(time.monotonic() - start), shown=shown):
        yield


@contextmanager
def growing(stage: str, folder: Path, total: int | None) -> Iterator[None]:
    """Show how many bytes a folder gets, of ``total``, while something else fills it."""
    before, most = num_bytes_in(folder), total or sys.maxsize
    with watched(stage, "bytes", total, lambda: min(num_bytes_in(folder) - before, most)):
        yield


def num_bytes_in(folder: Path) -> int:
    """The size of all files below a folder, but of those that vanish meanwhile."""
    num_bytes = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                num_bytes += Path(path, file).stat().st_size
    return num_bytes
