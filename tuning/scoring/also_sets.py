"""Further evaluation sets by name: what a model has forgotten is seen where it was not tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.dialogue import Dialogue, Turn, from_line
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.run.errors import UserError
from tuning.run.params import ScoreParams

FORMS = (
    'wanted a line of JSON each: {"text": "…"} everywhere, or dialogues everywhere, as prep writes '
    "them (val.jsonl of another run is such a file)"
)


@dataclass(frozen=True, kw_only=True)
class AlsoSet:
    """Texts, or dialogues of which responses are scored."""

    name: str
    texts: list[str]
    """Empty if it is one of dialogues."""
    dialogues: list[Dialogue]

    @property
    def all_dialogues(self) -> list[Dialogue]:
        """Each text as a dialogue of one turn, or the dialogues."""
        return [Dialogue("", (Turn("", text),)) for text in self.texts] or self.dialogues


def read_also(folder: Path, settings: ScoreParams, loss_on: str | Sequence[str]) -> list[AlsoSet]:
    """Read the sets that ``score.also`` names, dialogues cut as validation dialogues are.

    Raises:
        UserError: a file is not there, or holds neither texts nor dialogues.
    """
    return [_read(folder, name, settings, loss_on) for name in settings.also]


def _read(folder: Path, name: str, settings: ScoreParams, loss_on: str | Sequence[str]) -> AlsoSet:
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "none"
        raise UserError(f"score.also: {path} is not there; in {folder}: {there}.")
    texts: list[str] = []
    dialogues: list[Dialogue] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            if isinstance(record.get("text"), str) and record["text"].strip():
                texts.append(record["text"])
            else:
                dialogues.append(_dialogue(record, line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"score.also: {path}, line {number}: {FORMS}.") from None
    cut, _ = cut_evaluation_set(
        dialogues,
        max_dialogues=settings.max_dialogues,
        max_turns=settings.max_turns,
        max_bytes=settings.max_bytes,
        loss_on=loss_on,
    )
    if bool(texts) == bool(cut):
        what = "holds texts and dialogues" if texts else "holds nothing to score"
        raise UserError(f"score.also: {path} {what}; {FORMS}.")
    return AlsoSet(name=name, texts=texts[: settings.max_dialogues], dialogues=cut)


def _dialogue(record: Any, line: bytes) -> Dialogue:
    if not record["turns"]:
        raise ValueError("no turn")
    return from_line(line)
