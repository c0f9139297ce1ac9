"""Further evaluation sets by name: what a model has forgotten is seen where it was not tuned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tuning.dialogue import Dialogue, Turn, from_line
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.run.errors import UserError
from tuning.run.params import ScoreParams

FORMS = (
    'wanted a line of JSON each: {"text": "…"} everywhere, or dialogues everywhere, as prep writes '
    "them (val.jsonl of another run is such a file)"
)

_DIALOGUE = TypeAdapter(Dialogue)


@dataclass(frozen=True, kw_only=True)
class AlsoSet:
    """Texts, or dialogues of which responses are scored."""

    name: str
    texts: list[str]
    """Empty if it is one of dialogues."""
    dialogues: list[Dialogue]
    num_left_out: int = 0
    """Texts or dialogues beyond ``score.max_dialogues``, and dialogues without a response."""

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
            json.dumps(record, ensure_ascii=False).encode()  # no half of a surrogate pair
            if isinstance(record.get("text"), str) and record["text"].strip():
                texts.append(record["text"])
            else:
                dialogues.append(_dialogue(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"score.also: {path}, line {number}: {FORMS}.") from None
    if bool(texts) == bool(dialogues):
        what = "holds texts and dialogues" if texts else "holds nothing to score"
        raise UserError(f"score.also: {path} {what}; {FORMS}.")
    cut, _ = cut_evaluation_set(
        dialogues,
        max_dialogues=settings.max_dialogues,
        max_turns=settings.max_turns,
        max_bytes=settings.max_bytes,
        loss_on=loss_on,
    )
    if dialogues and not any(one.turns[turn].text for one in cut for turn in one.responses):
        raise UserError(
            f"score.also: {path} holds no response to score: a turn behind another that "
            "encoding.loss_on trains, within score.max_turns."
        )
    texts_read = texts[: settings.max_dialogues]
    num_left_out = len(texts) + len(dialogues) - len(texts_read) - len(cut)
    return AlsoSet(name=name, texts=texts_read, dialogues=cut, num_left_out=num_left_out)


def _dialogue(line: bytes) -> Dialogue:
    dialogue = from_line(line)
    if not dialogue.turns:
        raise ValueError("no turn")
    return _DIALOGUE.validate_python(asdict(dialogue))
