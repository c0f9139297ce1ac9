"""Generated dialogues, and prep run on them as on a user's file."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stages.prep import prepare
from tuning.corpus.columns import Columns
from tuning.corpus.message_rows import read_dialogues_of
from tuning.corpus.records import Record, RecordReader
from tuning.dialogue import Dialogue, Turn, from_line, read_dialogues
from tuning.reading.pieces import RawRecord
from tuning.run.params import ColumnsParams, DataParams, EncodingParams, SourceParams

WORDS = [f"{first}{second}" for first in "bdfgklmnprstvz" for second in ("a", "ei", "o", "ul", "y")]

utterances = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12
)
turns = st.builds(Turn, st.sampled_from(["ann", "bob", "cem"]), utterances)
contents = st.lists(turns, max_size=5).map(tuple)


@st.composite
def corpora(draw: st.DrawFn) -> list[Dialogue]:
    """Dialogues with ids of their own, some of them with the same content."""
    drawn = draw(st.lists(contents, max_size=12))
    repeated = draw(st.lists(st.sampled_from(drawn), max_size=4)) if drawn else []
    return [Dialogue(f"d{n}", content) for n, content in enumerate([*drawn, *repeated])]


def generated(
    num_dialogues: int, seed: int = 7, *, num_turns: int = 4, speakers: Sequence[str] = "ab"
) -> list[Dialogue]:
    """Small talk of six made-up words a turn; no two are alike."""
    source = random.Random(seed)
    return [
        Dialogue(
            f"g{seed}-{number}",
            tuple(
                Turn(speakers[turn % len(speakers)], " ".join(source.choices(WORDS, k=6)))
                for turn in range(num_turns)
            ),
        )
        for number in range(num_dialogues)
    ]


def nearly(dialogue: Dialogue, dialogue_id: str, last_word: str) -> Dialogue:
    """The same dialogue but for its last word."""
    *others, last = dialogue.turns
    words = [*last.utterance.split()[:-1], last_word]
    return Dialogue(dialogue_id, (*others, Turn(last.speaker, " ".join(words))))


def system(text: str, **more: Any) -> Turn:
    """A system text."""
    return Turn("system", text, "system", **more)


def user(text: str, **more: Any) -> Turn:
    """A user's turn."""
    return Turn("user", text, "user", **more)


def assistant(text: str, **more: Any) -> Turn:
    """An assistant's turn."""
    return Turn("assistant", text, "assistant", **more)


def tool(text: str, **more: Any) -> Turn:
    """A tool's answer."""
    return Turn("tool", text, "tool", **more)


def as_record(dialogue: Dialogue, **fields: Any) -> dict[str, Any]:
    """A list of turns, each with a speaker and a text."""
    return {
        "id": dialogue.dialogue_id,
        "turns": [{"speaker": t.speaker, "text": t.utterance} for t in dialogue.turns],
        **fields,
    }


def data_params(**changes: Any) -> DataParams:
    """Everything is kept unless ``changes`` say otherwise."""
    defaults: dict[str, Any] = {
        "path": "mine.jsonl",
        "hub": {},
        "sources": {},
        "columns": ColumnsParams(list=None, who=None, text=None, role=None, id=None),
        "roles": {},
        "on_invalid": "error",
        "max_dialogues": None,
        "min_speakers": 1,
        "min_turns": 1,
        "deduplicate": "keep_one",
        "near_duplicate_threshold": 0.7,
        "common_run_share": 0.05,
        "validation_fraction": 0.3,
        "test_fraction": 0.0,
        "group_by": None,
        "branches": "all",
        "session_gap_hours": None,
        "session_turns": None,
        "redact": "report",
        "phone_region": "US",
    }
    return DataParams(**defaults | changes)


def encoding_params(**changes: Any) -> EncodingParams:
    """Speaker tokens and every turn trained unless ``changes`` say otherwise."""
    defaults: dict[str, Any] = {
        "max_length": 512,
        "min_context": 16,
        "template": "speakers",
        "template_settings": {},
        "loss_on": "all",
    }
    return EncodingParams(**defaults | changes)


@dataclass(frozen=True)
class Read:
    """What became of records, and what was counted beside."""

    records: list[Record]
    unused: dict[str, int]
    passed_over: dict[str, int]
    beside: list[str] = field(default_factory=list)
    """Keys of a file that hold no records."""

    @property
    def dialogues(self) -> list[Dialogue]:
        """All of them; none is a fault."""
        assert [record.fault for record in self.records if record.fault] == []
        return [record.dialogue for record in self.records if record.dialogue]

    @property
    def dialogue(self) -> Dialogue:
        """The only one."""
        [dialogue] = self.dialogues
        return dialogue

    @property
    def turns(self) -> list[Turn]:
        """Those of the only one."""
        return list(self.dialogue.turns)

    @property
    def fault(self) -> tuple[str, str]:
        """Reason and message of the only record, which is a fault."""
        [record] = self.records
        assert record.dialogue is None
        return record.reason, record.fault


def read_entry(entry: Any, **changes: Any) -> Read:
    """Read one record, which stands at line 1."""
    read = RecordReader(data_params(**changes))
    records = read(RawRecord("mine.jsonl:1", "line-1", json.dumps(entry)))
    return Read(records, dict(read.reader.unused), dict(read.reader.passed_over))


def read_file(path: Path, **changes: Any) -> Read:
    """Read a file as prep does."""
    read = RecordReader(data_params(**changes))
    beside: list[str] = []
    columns = Columns(data_params(**changes).columns)
    pieces = read_dialogues_of(path, "", columns=columns, on_beside=beside.append)
    records = [record for piece in pieces for raw in piece.records() for record in read(raw)]
    return Read(records, dict(read.reader.unused), dict(read.reader.passed_over), beside)


@dataclass(frozen=True)
class Prepared:
    """What prep wrote."""

    sides: dict[str, list[Dialogue]]
    """``train``, ``val`` and, where there is one, ``test``."""
    dropped: list[tuple[str, Dialogue]]
    """Reason and dialogue."""
    ledger: dict[str, Any]

    @property
    def kept(self) -> list[Dialogue]:
        """Dialogues on any side."""
        return [dialogue for side in self.sides.values() for dialogue in side]

    def side_of(self) -> dict[str, str]:
        """Each kept dialogue's side, by id."""
        return {d.dialogue_id: side for side, dialogues in self.sides.items() for d in dialogues}


def prepare_records(records: Sequence[Any], **changes: Any) -> Prepared:
    """Write records as JSONL, run prep on them, read what it wrote."""
    return prepare_files({"mine.jsonl": records}, "mine.jsonl", **changes)


def prepare_sources(
    sources: Mapping[str, Sequence[Dialogue]], settings: Mapping[str, Any], **changes: Any
) -> Prepared:
    """The same from dialogues by source, each with settings of its own."""
    files = {f"{name}.jsonl": [as_record(d) for d in found] for name, found in sources.items()}
    entries = {
        name: SourceParams(files=[f"{name}.jsonl"], **settings.get(name, {})) for name in sources
    }
    return prepare_files(files, "", sources=entries, **changes)


def prepare_files(files: Mapping[str, Sequence[Any]], path: str, **changes: Any) -> Prepared:
    """Write files of records, run prep on one of them, or on their folder, read what it wrote."""
    with tempfile.TemporaryDirectory() as name:
        data, folder = Path(name) / "data", Path(name) / "prepared"
        data.mkdir()
        for file, records in files.items():
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            (data / file).write_text("".join(lines), encoding="utf-8", newline="")
        folder.mkdir()
        ledger = prepare(data / path, data_params(**changes), folder)
        dropped = [
            (json.loads(line)["reason"], from_line(line))
            for line in (folder / "dropped.jsonl").read_bytes().splitlines()
        ]
        sides = {
            file.stem: list(read_dialogues(file))
            for file in sorted(folder.glob("*.jsonl"))
            if file.stem not in ("dropped", "private", "example")
        }
        return Prepared(sides, dropped, ledger)


def prepare_dialogues(dialogues: Sequence[Dialogue], **changes: Any) -> Prepared:
    """The same from dialogues."""
    return prepare_records([as_record(dialogue) for dialogue in dialogues], **changes)
