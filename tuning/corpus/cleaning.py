"""A piece of the input -> its clean dialogues, and what must be known of each to decide its fate.

This is the part that runs on every core: decoding, checking, cleaning, hashing. What is decided
about a dialogue here depends on that dialogue alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tuning.corpus.duplicates import (
    UInts,
    content_hash,
    normalised_words,
    said,
    said_here,
    shingle_hashes,
)
from tuning.corpus.private_data import dump, find_in, redacted
from tuning.corpus.records import SPEAKERS, Record, RecordReader
from tuning.corpus.sources import Source
from tuning.corpus.split import draw, side_of
from tuning.dialogue import Dialogue, to_line
from tuning.reading.pieces import Piece, RawRecord

FEW_SPEAKERS = 1
FEW_TURNS = 2
MAX_FAULTS = 20
MAX_RAW_CHARACTERS = 2000
"""Of an invalid record's text, those that are listed."""

ROW = np.dtype(
    [
        ("length", np.uint32),  # bytes of its line
        ("num_runs", np.uint32),  # of five words
        ("source", np.uint16),  # its number
        ("side", np.uint8),  # of the split
        ("too_few", np.uint8),  # FEW_SPEAKERS, FEW_TURNS or 0
        ("num_speakers", np.uint32),
        ("num_people", np.uint32),  # of them, who are no role
        ("num_turns", np.uint32),
        ("num_characters", np.uint64),
        ("content", np.uint64, (2,)),  # half of its content_hash
        ("text", np.uint64),  # of its utterances to the letter
        ("id", np.uint64),  # of its dialogue_id
        ("stem", np.uint64),  # of its id's stem, or 0
        ("order", np.uint64),  # its place in the fixed random order
    ]
)
Rows = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class CleanPiece:
    """The dialogues of one piece, in order, and what it held besides."""

    lines: bytes
    r"""Of each dialogue: place in the input, NUL, private data, NUL, ``to_line``, a line end."""
    rows: Rows
    """``[D]`` of ``ROW``."""
    runs: UInts
    """Hashed runs of five words, ``num_runs`` for each dialogue."""
    speakers: UInts
    """Hashes of speaker names, ``num_speakers`` for each dialogue."""
    num_raw_turns: int
    """Turns before empty ones are left out."""
    num_raw_characters: int
    """Characters before white space is stripped."""
    num_control: int
    """Control characters that were taken out."""
    num_records: int
    source: int
    """The number of the source that all of it is from."""
    invalid: Counter[str]
    """Records that are not dialogues, by reason."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """The first invalid records: place, and what was found and wanted."""
    invalid_lines: bytes = b""
    """A JSON line for each invalid record, if they are left out."""
    roles: Counter[str] = field(default_factory=Counter)
    """Turns by role; people's have none."""
    groupings: Counter[str] = field(default_factory=Counter)
    """Settings of ``data.group_by`` that would keep together what has ids alike."""
    unused: Counter[str] = field(default_factory=Counter)
    """Records and messages with a key that says something and is not used, by its name."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Messages that are none of a conversation, by kind."""


class Cleaner:
    """Cleans pieces of one source's files."""

    def __init__(self, source: Source) -> None:
        """Take the source with its settings."""
        self._source = source
        self._data = source.data

    def __call__(self, piece: Piece) -> CleanPiece:
        """Decode, check, clean and hash one piece."""
        read = RecordReader(self._data)  # anew, with counts of its own
        raw_records = [(raw, record) for raw in piece.records() for record in read(raw)]
        records = [record for _, record in raw_records]
        is_kept = self._data.on_invalid == "skip"
        good = [(r, self._labelled(r.dialogue)) for r in records if r.dialogue is not None]
        dialogues = [dialogue for _, dialogue in good]
        words = [normalised_words(dialogue) for dialogue in dialogues]
        private = [self._private(dialogue) for dialogue in dialogues]
        lines = [
            f"{r.where}\0{findings}\0{to_line(dialogue)}\n".encode()
            for (r, dialogue), findings in zip(good, private, strict=True)
        ]
        faults = [(r.where, r.fault) for r in records if r.fault]
        runs, offsets = shingle_hashes(
            [said_here(dialogue, turns) for dialogue, turns in zip(dialogues, words, strict=True)]
        )
        num_runs = np.diff(offsets).tolist()
        return CleanPiece(
            lines=b"".join(lines),
            rows=np.array(
                [
                    (len(line), of_runs, *self._row(record, dialogue, of_dialogue))
                    for line, of_runs, (record, dialogue), of_dialogue in zip(
                        lines, num_runs, good, words, strict=True
                    )
                ],
                ROW,
            ),
            runs=runs,
            speakers=np.array(
                [draw(s.encode(), "speaker") for d in dialogues for s in d.speakers], np.uint64
            ),
            num_raw_turns=sum(r.num_raw_turns for r, _ in good),
            num_raw_characters=sum(r.num_raw_characters for r, _ in good),
            num_control=sum(r.num_control for r, _ in good),
            num_records=len(records),
            source=self._source.number,
            invalid=Counter(r.reason for r in records if r.fault),
            faults=faults[:MAX_FAULTS],
            invalid_lines=b"".join(
                self._invalid_line(raw, record)
                for raw, record in raw_records
                if record.fault and is_kept
            ),
            roles=Counter(str(t.role) for d in dialogues for t in d.turns if t.role is not None),
            groupings=Counter(r.grouping for r, _ in good if r.grouping),
            unused=read.reader.unused,
            passed_over=read.reader.passed_over,
        )

    def _invalid_line(self, raw: RawRecord, record: Record) -> bytes:
        """An invalid record's place, the reason, and its text as it came, cut to a sane length."""
        text = raw.text if isinstance(raw.text, str) else raw.text.decode(errors="replace")
        values = [record.fault, text[:MAX_RAW_CHARACTERS]]
        if self._data.redact == "replace":
            values = [redacted(value, self._data.phone_region) for value in values]
        line = {"where": record.where, "reason": record.reason}
        line |= dict(zip(("fault", "text"), values, strict=True))
        return f"{json.dumps(line, ensure_ascii=False)}\n".encode(errors="replace")

    def _labelled(self, dialogue: Dialogue) -> Dialogue:
        if not self._source.name:
            return dialogue
        return replace(dialogue, source=self._source.name, loss_on=self._source.loss_on)

    def _private(self, dialogue: Dialogue) -> str:
        if self._data.redact == "none":
            return ""
        return dump(find_in(dialogue, self._data.phone_region))

    def _row(
        self, record: Record, dialogue: Dialogue, words: list[list[str]]
    ) -> tuple[object, ...]:
        """All of ``ROW`` but the length and the number of runs."""
        content = content_hash(dialogue, words)
        num_speakers = len(dialogue.speakers)
        too_few = 0
        if num_speakers < self._data.min_speakers:
            too_few = FEW_SPEAKERS
        elif len(dialogue.turns) < self._data.min_turns:
            too_few = FEW_TURNS
        side = side_of(
            content,
            record.groups,
            validation_fraction=self._data.validation_fraction,
            test_fraction=self._data.test_fraction,
            groups_per_dialogue=2 if self._data.group_by == SPEAKERS else 1,
        )
        return (
            self._source.number,
            side,
            too_few,
            num_speakers,
            len(dialogue.people),
            len(dialogue.turns),
            dialogue.num_characters,
            (int.from_bytes(content[:8], "big"), int.from_bytes(content[8:16], "big")),
            draw("\0".join(map(said, dialogue.turns)).encode(), "text"),
            draw(dialogue.dialogue_id.encode(), "id"),
            draw(record.stem.encode(), "stem") if record.stem else 0,
            draw(content, "order"),
        )


def faults_message(
    path: object, num_records: int, faults: Sequence[tuple[str, str]], num_faults: int
) -> str:
    """The faults that were kept, a count of the rest, and what to do."""
    shown = "\n".join(f"  {where}: {fault}" for where, fault in faults[:MAX_FAULTS])
    more = num_faults - min(len(faults), MAX_FAULTS)
    rest = f"\n  … and {more:,} more" if more > 0 else ""
    return (
        f"{path}: {num_faults:,} of {num_records:,} records are not dialogues:\n{shown}{rest}\n"
        "Mend them, or drop and count them with data.on_invalid: skip."
    )
