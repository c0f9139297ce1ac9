"""What a dialogue is, and its one form on disk: a JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.files import write_text


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says before the next turn; several messages are its lines."""

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


def write_dialogues(path: Path, dialogues: Iterable[Dialogue]) -> None:
    """One JSON object per line, keys in a fixed order, non-ASCII text as it is."""
    lines = (
        json.dumps(
            {
                "dialogue_id": dialogue.dialogue_id,
                "turns": [{"speaker": t.speaker, "utterance": t.utterance} for t in dialogue.turns],
            },
            ensure_ascii=False,
        )
        for dialogue in dialogues
    )
    write_text(path, "".join(line + "\n" for line in lines))


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """Dialogues as ``write_dialogues`` wrote them."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            turns = tuple(Turn(turn["speaker"], turn["utterance"]) for turn in record["turns"])
            yield Dialogue(record["dialogue_id"], turns)
