"""The file of votes: a JSON line for each time that a judge was asked, and nothing else."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from tools.judge.pairs import Pairing, Shown
from tuning.run.errors import UserError
from tuning.run.files import disk_errors, make_folder

Choice = Literal["left", "right", "tie", "both_bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

VOTES = Path("judgements/votes.jsonl")
"""Where votes are, if nobody says otherwise: what people say is no output of a stage."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What one judge said of one pair, with all that was shown."""

    judge: str
    is_model: bool
    """Whether a model judged, and no person."""
    time: str
    """ISO 8601, UTC."""
    a: str
    """Label of side A."""
    b: str
    """Label of side B."""
    pair: str
    """``Pair.pair_id``."""
    dialogue: int
    """Index of the dialogue in the evaluation set."""
    context: tuple[str, ...]
    left: str
    right: str
    a_is_left: bool
    """Which side stood left; no judge sees it."""
    vote: Choice
    seed: int
    reference: str
    """A person's words in this place, for the automatic measures; shown only as a side."""
    num_pairs: int
    """Pairs that there were to judge."""
    num_identical: int
    """Places where both sides say the same."""

    def __post_init__(self) -> None:
        """Refuse a vote between a side and itself, and one of no pairs.

        Raises:
            ValueError: both labels are one, or a count is below what it can be.
        """
        if self.a == self.b:
            raise ValueError("a and b are one side")
        if self.num_pairs < 1 or self.num_identical < 0:
            raise ValueError("num_pairs and num_identical are counts of pairs, one of them this")


_VOTE = TypeAdapter(Vote)


def read_votes(path: Path) -> list[Vote]:
    """Read all votes; a file that is not there holds none.

    Raises:
        UserError: a line is no vote.
    """
    if not path.exists():
        return []
    votes = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                votes.append(_VOTE.validate_json(line.removeprefix(BOM_UTF8)))
            except ValidationError as error:
                raise UserError(
                    f"{path}, line {number} is no vote ({_reason(error)}). Mend that line, or "
                    "delete it if a stop cut it off; the other votes stay."
                ) from None
    return votes


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


@dataclass(frozen=True)
class Ballot:
    """One judge's votes on one pairing, kept in a file of many."""

    path: Path
    pairing: Pairing
    judge: str
    is_model: bool
    seed: int

    def orders_asked(self) -> Collection[tuple[str, bool]]:
        """Return which pairs this judge has judged, each with whether A stood left.

        Raises:
            UserError: the file holds a line that is no vote.
        """
        labels = {self.pairing.a: False, self.pairing.b: True}
        return {
            (vote.pair, vote.a_is_left != labels[vote.a])
            for vote in read_votes(self.path)
            if (vote.judge, vote.is_model) == (self.judge, self.is_model)
            and {vote.a, vote.b} == labels.keys()
        }

    def add(self, shown: Shown, choice: Choice) -> None:
        """Append a vote; it is on the disk when this returns."""
        pair = shown.pair
        vote = Vote(
            judge=self.judge,
            is_model=self.is_model,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            a=self.pairing.a,
            b=self.pairing.b,
            pair=pair.pair_id,
            dialogue=pair.dialogue,
            context=pair.context,
            left=shown.left,
            right=shown.right,
            a_is_left=shown.a_is_left,
            vote=choice,
            seed=self.seed,
            reference=pair.reference,
            num_pairs=len(self.pairing.pairs),
            num_identical=self.pairing.num_identical,
        )
        append(self.path, json.dumps(asdict(vote), ensure_ascii=False))


def append(path: Path, line: str) -> None:
    """Append a line, begun anew if the file's last one has no end, and wait for the disk."""
    make_folder(path.parent)
    with disk_errors(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        begun = file.read(1) not in (b"", b"\n")
        left = b"\n" * begun + line.encode() + b"\n"
        try:
            while left:  # a full disk takes a part, and then nothing
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
