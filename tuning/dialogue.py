"""A dialogue, and its one form on disk: a JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Turn:
    """The words of one speaker up to the next turn; several messages are its lines."""

    speaker: str
    utterance: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in order. One speaker may hold consecutive turns; any number may take part."""

    dialogue_id: str
    turns: tuple[Turn, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Distinct speakers by order of first appearance: index 0 is ``<|speaker1|>``."""
        return tuple(dict.fromkeys(turn.speaker for turn in self.turns))

    @property
    def num_characters(self) -> int:
        """Unicode code points in all utterances."""
        return sum(len(turn.utterance) for turn in self.turns)


def to_line(dialogue: Dialogue) -> str:
    """One JSON object without a line end: keys in a fixed order, non-ASCII text as it is."""
    return json.dumps(
        {
            "dialogue_id": dialogue.dialogue_id,
            "turns": [{"speaker": t.speaker, "utterance": t.utterance} for t in dialogue.turns],
        },
        ensure_ascii=False,
    )


def from_line(line: str | bytes) -> Dialogue:
    """The dialogue that ``to_line`` wrote; other keys beside it are ignored."""
    record = json.loads(line)
    turns = tuple(Turn(turn["speaker"], turn["utterance"]) for turn in record["turns"])
    return Dialogue(record["dialogue_id"], turns)


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """Dialogues of a file with one ``to_line`` per line."""
    with path.open("rb") as file:
        yield from map(from_line, file)
