"""What is judged: both sides' responses in the same places, in an order that a seed draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from tools.compare.files import WORKING_TREE, Files
from tools.compare.revisions import revision_files
from tuning.evaluation_set.places import Response
from tuning.run.errors import UserError

PEOPLE = "people"
"""The side of what people said in these places."""
BASE = "base"
"""The side of the base model."""

_RESPONSES = TypeAdapter(list[Response])


@dataclass(frozen=True)
class Side:
    """Who wrote, and what."""

    label: str
    """The name, with the beginning of a hash of the responses: tomorrow's ``workspace`` is another
    side."""
    responses: Sequence[Response]
    """In the places, each with the text of this side."""


@dataclass(frozen=True)
class Pair:
    """Two responses in one place."""

    dialogue: int
    """Index of the dialogue in the evaluation set."""
    context: tuple[str, ...]
    """The texts of the turns before."""
    reference: str
    """A person's words in this place."""
    a: str
    b: str

    @property
    def pair_id(self) -> str:
        """A hash of what is shown, whichever stands left: 16 hex digits."""
        return _digest([self.context, sorted((self.a, self.b))]).hex()[:16]


@dataclass(frozen=True)
class Shown:
    """A pair as it stands before a judge."""

    pair: Pair
    a_is_left: bool

    @property
    def left(self) -> str:
        """The text on the left, or the first."""
        return self.pair.a if self.a_is_left else self.pair.b

    @property
    def right(self) -> str:
        """The text on the right, or the second."""
        return self.pair.b if self.a_is_left else self.pair.a

    @property
    def swapped(self) -> Shown:
        """The same pair in the other order."""
        return replace(self, a_is_left=not self.a_is_left)


@dataclass(frozen=True)
class Pairing:
    """All pairs of two sides."""

    a: str
    """Label of side A."""
    b: str
    """Label of side B."""
    pairs: Sequence[Pair]
    """Those that differ, each once, in the order of the places."""
    num_identical: int
    """Places where both say the same: ties that nobody needs to be asked about."""

    def drawn(self, seed: int, judge: str) -> list[Shown]:
        """Return the pairs in the order, and with the sides, that a seed draws for a judge."""
        draws = {pair: _digest([seed, judge, pair.pair_id]) for pair in self.pairs}
        order = sorted(self.pairs, key=lambda pair: draws[pair])
        return [Shown(pair, bool(draws[pair][-1] % 2)) for pair in order]


def read_sides(a: str, b: str) -> tuple[Side, Side]:
    """Read the greedy responses of two sides.

    A side is a revision, ``workspace``, ``base`` (the base model, as the other side's revision
    scored it) or ``people`` (their own responses in the other side's places).

    Raises:
        UserError: there is no such revision, or it holds no responses that can be read.
    """
    if a == b:
        raise UserError(f"{a!r} stands on both sides; name two that may differ.")
    models = [name for name in (a, b) if name not in (PEOPLE, BASE)] or [WORKING_TREE]
    with revision_files(models) as revisions:
        files = {a: revisions[0], b: revisions[-1]}
        return _side(a, files[a]), _side(b, files[b])


def _side(name: str, files: Files) -> Side:
    paths = files.flags("eval", "--base", "--tuned")
    path = paths.base if name == BASE else paths.tuned
    if path is None:
        raise UserError(
            f"{files.name} is from before scores were files of their own: the command of its eval "
            "stage has no --base and --tuned."
        )
    try:
        scores = json.loads(files.text(path))
        responses = _RESPONSES.validate_python(scores["written"]["greedy"])
    except (ValueError, ValidationError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path} of {files.name} holds no responses that can be read: score wrote it with "
            "another version, or something else did. Name a revision that was scored anew."
        ) from None
    if name == PEOPLE:
        return Side(name, [replace(one, text=one.reference) for one in responses])
    content = [(one.dialogue, one.context, one.reference, one.text) for one in responses]
    return Side(f"{name} ({_digest(content).hex()[:7]})", responses)


def pair_up(a: Side, b: Side) -> Pairing:
    """Pair the responses in the places that both sides have.

    Raises:
        UserError: the sides answer different texts, or never differ.
    """
    there = {_place(response): response for response in b.responses}
    both = [(one, there[_place(one)]) for one in a.responses if _place(one) in there]
    same_text = all(
        (one.context, one.reference) == (other.context, other.reference) for one, other in both
    )
    if not both or not same_text:
        raise UserError(
            f"{a.label} and {b.label} answer different dialogues, so nobody can judge between them:"
            " the data, or what score takes of it, has changed. Run dvc repro with the same data "
            "and score parameters on both, or name other revisions."
        )
    pairs = {
        pair.pair_id: pair
        for one, other in both
        if one.text.strip() != other.text.strip()
        for pair in [Pair(one.dialogue, one.context, one.reference, one.text, other.text)]
    }
    if not pairs:
        raise UserError(f"{a.label} and {b.label} say the same in all {len(both)} places.")
    num_identical = sum(one.text.strip() == other.text.strip() for one, other in both)
    return Pairing(a.label, b.label, list(pairs.values()), num_identical)


def _place(response: Response) -> tuple[int, int]:
    """Dialogue and turn."""
    return response.dialogue, len(response.context)


def _digest(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content).encode()).digest()
