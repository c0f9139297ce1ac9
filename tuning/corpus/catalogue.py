"""All dialogues of the input: their text in a file, and in memory only a row of facts for each."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from tuning.corpus.cleaning import MAX_FAULTS, ROW, CleanPiece
from tuning.corpus.duplicates import Ints, UInts, jaccard, normalised_words, said_here
from tuning.dialogue import Dialogue, from_line


class Catalogue:
    """All dialogues: filled piece by piece, then read. Closing it removes its scratch files."""

    def __init__(self, folder: Path, num_bands: int) -> None:
        """Begin an empty one in a new folder."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._lines = (folder / "lines").open("w+b")
        self._rows = (folder / "rows").open("w+b")
        self._speakers = (folder / "speakers").open("w+b")
        self._bands = [(folder / f"band-{n}").open("w+b") for n in range(num_bands)]
        self.num_records = 0
        self.num_raw_turns = 0
        self.num_raw_characters = 0
        self.num_control = 0
        self.roles: Counter[str] = Counter()
        self.unused: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.faults: list[tuple[str, str]] = []
        self._text_of = lru_cache(maxsize=4096)(self._read_words)

    def __enter__(self) -> Self:
        """The catalogue."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the scratch files."""
        for file in (self._lines, self._rows, self._speakers, *self._bands):
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, piece: CleanPiece) -> None:
        """Append a piece's dialogues and counts."""
        self._lines.write(piece.lines)
        piece.rows.tofile(self._rows)
        piece.speakers.tofile(self._speakers)
        for file, column in zip(self._bands, piece.bands.T, strict=True):
            np.ascontiguousarray(column).tofile(file)
        self.num_records += piece.num_records
        self.num_raw_turns += piece.num_raw_turns
        self.num_raw_characters += piece.num_raw_characters
        self.num_control += piece.num_control
        self.roles += piece.roles
        self.unused += piece.unused
        self.passed_over += piece.passed_over
        self.invalid += piece.invalid
        self.faults += piece.faults[: MAX_FAULTS - len(self.faults)]

    def finish(self) -> None:
        """Load the rows, once all pieces have been added."""
        for file in (self._lines, self._rows, self._speakers, *self._bands):
            file.flush()
            file.seek(0)
        self.rows = np.fromfile(self._rows, ROW)
        self._offsets: Ints = np.concatenate([[0], np.cumsum(self.rows["length"], dtype=np.int64)])

    def __len__(self) -> int:
        """The number of dialogues, not counting invalid records."""
        return len(self.rows)

    @property
    def num_bands(self) -> int:
        """The number of columns of the near-duplicate index."""
        return len(self._bands)

    def band(self, number: int) -> UInts:
        """``[D]``: one band's hash of every dialogue."""
        self._bands[number].seek(0)
        return np.fromfile(self._bands[number], np.uint64)

    def speakers(self) -> UInts:
        """Hashed names of all dialogues' speakers, ``rows["num_speakers"]`` for each."""
        self._speakers.seek(0)
        return np.fromfile(self._speakers, np.uint64)

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

    def similarity(self, one: int, other: int) -> float:
        """The share of five-word runs that two dialogues have in common."""
        return jaccard(self._text_of(one), self._text_of(other))

    def _read_words(self, index: int) -> list[str]:
        dialogue = self.dialogue(index)
        return said_here(dialogue, normalised_words(dialogue))
