"""All dialogues of the input: their text in a file, and in memory only a row of facts for each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from tuning.corpus.cleaning import MAX_FAULTS, ROW, CleanPiece
from tuning.corpus.common_runs import RunPiece
from tuning.corpus.duplicates import NUM_PERMUTATIONS, Ints, UInts
from tuning.dialogue import Dialogue, from_line

RUNS_PER_PIECE = 2**17
"""A megabyte of them."""


class Catalogue:
    """All dialogues: filled piece by piece, then read. Closing it removes its scratch files."""

    def __init__(self, folder: Path, num_bands: int) -> None:
        """Begin an empty one in a new folder."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._lines = (folder / "lines").open("w+b")
        self._rows = (folder / "rows").open("w+b")
        self._speakers = (folder / "speakers").open("w+b")
        self._runs = (folder / "runs").open("w+b")
        self._invalid = (folder / "invalid").open("w+b")
        self._bands = [(folder / f"band-{n}").open("w+b") for n in range(num_bands)]
        self.num_records: Counter[int] = Counter()
        """By the number of the source, as the next one."""
        self.num_invalid: Counter[int] = Counter()
        self.num_raw_turns = 0
        self.num_raw_characters = 0
        self.num_control = 0
        self.roles: Counter[str] = Counter()
        self.groupings: Counter[str] = Counter()
        self.unused: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.faults: list[tuple[str, str]] = []
        self.distinct_runs = lru_cache(maxsize=4096)(self._read_distinct_runs)

    def __enter__(self) -> Self:
        """The catalogue."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the scratch files."""
        files = (self._lines, self._rows, self._speakers, self._runs, self._invalid)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            for file in (*files, *self._bands):
                stack.enter_context(file)

    def add(self, piece: CleanPiece) -> None:
        """Append a piece's dialogues and counts."""
        self._lines.write(piece.lines)
        # By the files' own write: of a full disk, numpy's tofile says nothing, or not what it is.
        self._rows.write(piece.rows.tobytes())
        self._speakers.write(piece.speakers.tobytes())
        self._runs.write(piece.runs.tobytes())
        self._invalid.write(piece.invalid_lines)
        self.num_records[piece.source] += piece.num_records
        self.num_invalid[piece.source] += piece.invalid.total()
        self.num_raw_turns += piece.num_raw_turns
        self.num_raw_characters += piece.num_raw_characters
        self.num_control += piece.num_control
        self.roles += piece.roles
        self.groupings += piece.groupings
        self.unused += piece.unused
        self.passed_over += piece.passed_over
        self.invalid += piece.invalid
        self.faults += piece.faults[: MAX_FAULTS - len(self.faults)]

    def finish(self) -> None:
        """Load the rows, once all pieces have been added."""
        for file in (self._lines, self._rows, self._speakers, self._runs):
            file.flush()
            file.seek(0)
        self.rows = np.fromfile(self._rows, ROW)
        self._offsets, self._run_offsets = (
            np.append(0, np.cumsum(self.rows[name], dtype=np.int64))
            for name in ("length", "num_runs")
        )

    def __len__(self) -> int:
        """The number of dialogues, not counting invalid records."""
        return len(self.rows)

    @property
    def num_bands(self) -> int:
        """The number of columns of the near-duplicate index."""
        return len(self._bands)

    def run_pieces(self, dialogues: Ints) -> Iterator[RunPiece]:
        """Some dialogues' runs in their order, in pieces of about ``RUNS_PER_PIECE``."""
        is_wanted = np.zeros(len(self), np.bool_)
        is_wanted[dialogues] = True
        # A signature takes memory too, however short its dialogue is
        sizes = self._run_offsets + NUM_PERMUTATIONS * np.arange(len(self) + 1)
        cuts = np.searchsorted(sizes, np.arange(0, sizes[-1], RUNS_PER_PIECE))
        for start, stop in pairwise(np.unique(np.append(cuts, len(self))).tolist()):
            wanted, num_runs = is_wanted[start:stop], np.diff(self._run_offsets[start : stop + 1])
            if wanted.any():
                runs = self._read_runs(start, stop)[np.repeat(wanted, num_runs)]
                yield RunPiece(runs, num_runs[wanted])

    def _read_runs(self, start: int, stop: int) -> UInts:
        """The runs of dialogues ``start`` to ``stop``."""
        first, end = self._run_offsets[[start, stop]].tolist()
        self._runs.seek(first * np.dtype(np.uint64).itemsize)
        return np.fromfile(self._runs, np.uint64, end - first)

    def _read_distinct_runs(self, index: int) -> UInts:
        """One dialogue's runs without repeats, ascending."""
        return np.unique(self._read_runs(index, index + 1))

    def write_bands(self, pieces: Iterable[UInts]) -> None:
        """Take the near-duplicate index of some dialogues, ``[D, bands]`` in all, in pieces."""
        for bands in pieces:
            for file, column in zip(self._bands, bands.T, strict=True):
                file.write(column.tobytes())

    def band(self, number: int) -> UInts:
        """``[D]``: one band's hash of every dialogue of ``write_bands``."""
        self._bands[number].flush()
        self._bands[number].seek(0)
        return np.fromfile(self._bands[number], np.uint64)

    def speakers(self) -> UInts:
        """Hashed names of all dialogues' speakers, ``rows["num_speakers"]`` for each."""
        self._speakers.seek(0)
        return np.fromfile(self._speakers, np.uint64)

    def write_invalid(self, path: Path) -> None:
        """Write a line for each invalid record: its place, the reason, and how it begins."""
        self._invalid.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(self._invalid, file)

    def line(self, index: int) -> tuple[str, bytes]:
        """One dialogue's place in the input, and its line with the line end."""
        where, _, line = self.entry(index)
        return where, line

    def entry(self, index: int) -> tuple[str, str, bytes]:
        """The same, with its private data between, as ``private_data.dump`` writes them."""
        self._lines.seek(self._offsets[index])
        where, private, line = self._lines.read(int(self.rows["length"][index])).split(b"\0", 2)
        return where.decode(), private.decode(), line

    def dialogue(self, index: int) -> Dialogue:
        """One dialogue."""
        return from_line(self.line(index)[1])
