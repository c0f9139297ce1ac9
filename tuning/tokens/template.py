r"""A template: the one owner of how turns become token ids.

``read`` gives a dialogue as a template writes it. Of that, ``renderings`` is what is trained, and
``after`` one turn behind any others, as it is scored or asked for. Text that spells a special token
is encoded as text.

Pretrained models expect text as their tokenizers write it. So where one begins every text with a
token of its own (Llama's, Gemma's), every dialogue begins with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal, Protocol

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, Turn
from tuning.tokens.call_text import CallText


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Token ids of one turn's parts, in order."""

    tag: list[int]
    """What stands before its content: the last that a model reads before it writes the turn."""
    content: list[int]
    end: list[int]
    joined: int | None = None
    """The one token that is written for the last of ``content`` and all of ``end``, if any is."""

    @property
    def ids(self) -> list[int]:
        """All of the turn, as it is written."""
        if self.joined is not None:
            return [*self.tag, *self.content[:-1], self.joined]
        return [*self.tag, *self.content, *self.end]

    def __len__(self) -> int:
        """Tokens in the turn, as it is written."""
        return len(self.tag) + len(self.content) + (len(self.end) if self.joined is None else 0)


@dataclass(frozen=True, slots=True)
class TurnInPlace:
    """A turn, and what a model reads before its tag."""

    context: list[int]
    turn: EncodedTurn

    @property
    def prompt(self) -> list[int]:
        """All that a model reads before it writes the turn."""
        return [*self.context, *self.turn.tag]


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a model reads of a dialogue in one go, of any length."""

    input_ids: list[int]
    """``[N]``."""
    is_target: list[bool]
    """``[N]`` Whether the token is trained, predicted from those before it."""


class NotEncodableError(Exception):
    """A dialogue cannot be written in this template; the message says what it does not take."""


Ending = Literal["end_of_turn", "tag"]
"""The token that ended a turn; ``tag`` is a speaker's, or another that no turn holds."""


class Reading(Protocol):
    """A dialogue as a template writes it."""

    def after(self, history: Sequence[int], number: int) -> TurnInPlace:
        """Return turn ``number`` behind the turns ``history`` (indices, in the order given)."""

    def renderings(self, trained: Sequence[bool]) -> list[Rendering]:
        """Return what is trained: one rendering, or more where a template rewrites the past.

        Every trained turn's content and end are targets in one of them, and nothing else is.

        Raises:
            NotEncodableError: the template does not take the dialogue.
        """

    def contents(self) -> list[list[int]]:
        """Return the ids of each turn's text."""

    def num_tokens(self) -> int:
        """Count the tokens of the whole dialogue, what is behind the last trained turn included."""

    def num_head(self, rendering: Rendering) -> int:
        """Count its first tokens that every part of it begins with: system text, tools."""

    def turn_starts(self, rendering: Rendering) -> list[int]:
        """Return the index in it at which each turn begins, ascending."""


class Template(Protocol):
    """A way to write turns as token ids."""

    name: str
    """Its name in a folder's ``template.json``."""
    tokenizer: PreTrainedTokenizerFast
    end: list[int]
    """Ids that end a turn."""
    stop_ids: frozenset[int]
    """Ids of which the end of each turn holds exactly one, and no content any."""
    untrained_ids: frozenset[int]
    """Ids that no model is to learn to write: tags, padding, what begins a text."""

    has_roles: bool
    """Whether a role is written as such, and not as one more speaker."""
    asks_all: bool
    """Whether anyone can be asked for a turn, and not the assistant alone."""

    @property
    def calls(self) -> CallText | None:
        """The form in which an assistant calls tools; None where it cannot be read back."""

    def read(self, dialogue: Dialogue) -> Reading:
        """Read a dialogue, whose tags depend on who else speaks in it."""

    def num_tokens(self, dialogue: Dialogue) -> int:
        """Count the tokens of a dialogue, also where there are more speakers than tags."""

    def lacks(self, dialogue: Dialogue) -> list[str]:
        """Name the parts of a dialogue that it does not write: ``reasoning``, ``tools``."""

    def ending_of(self, token_id: int) -> Ending | None:
        """Tell how a model that writes this token ends its turn; None if it does not."""

    def is_joined(self, token_id: int) -> bool:
        """Tell whether a token holds text of a turn and, behind it, the turn's end."""

    def begins_turn(self, token_id: int) -> bool:
        """Tell whether a token begins a turn, for a page that shows a turn a line."""

    def is_mark(self, token_id: int) -> bool:
        """Tell whether a token is no text but a mark of the template."""

    def text_of(self, ids: Sequence[int]) -> str:
        """Return what a model that wrote these ids says."""

    def spelled_tags(self, dialogue: Dialogue) -> dict[str, str]:
        """Spell each speaker's tag for people, also where there is no such tag."""


@dataclass(frozen=True, slots=True)
class TurnByTurn:
    """A dialogue whose turns are written alike wherever they stand, one after another.

    The three parts of a turn are each encoded on their own, so the border between what is trained
    and what is not is known by position and cannot drift.
    """

    start: list[int]
    """Ids that begin a dialogue, or a part of one that stands alone."""
    turns: list[EncodedTurn]
    num_system: int
    """System turns at the beginning."""

    def after(self, history: Sequence[int], number: int) -> TurnInPlace:
        """Return turn ``number`` behind the turns ``history``."""
        before = chain.from_iterable(self.turns[index].ids for index in history)
        return TurnInPlace([*self.start, *before], self.turns[number])

    def renderings(self, trained: Sequence[bool]) -> list[Rendering]:
        """Return the whole dialogue, with the content and the end of trained turns as targets."""
        input_ids = [*self.start]
        is_target = [False] * len(self.start)
        for turn, is_trained in zip(self.turns, trained, strict=True):
            ids = turn.ids
            input_ids += ids
            is_target += [False] * len(turn.tag)
            is_target += [is_trained] * (len(ids) - len(turn.tag))
        return [Rendering(input_ids, is_target)]

    def contents(self) -> list[list[int]]:
        """Return the ids of each turn's text."""
        return [turn.content for turn in self.turns]

    def num_tokens(self) -> int:
        """Count the tokens of the start and of all turns."""
        return len(self.start) + sum(map(len, self.turns))

    def num_head(self, rendering: Rendering) -> int:
        """Count the tokens of the start and of the system turns behind it."""
        return len(self.start) + sum(map(len, self.turns[: self.num_system]))

    def turn_starts(self, rendering: Rendering) -> list[int]:
        """Return the index at which each turn begins."""
        return list(accumulate(map(len, self.turns[:-1]), initial=len(self.start)))


class EndsWithMarks:
    """A template whose marks are special tokens: each ends a turn, ``stop_ids`` as it should."""

    stop_ids: frozenset[int]
    special_ids: frozenset[int]
    """All special tokens, which no text holds."""

    def ending_of(self, token_id: int) -> Ending | None:
        """Every special token ends a turn; those of ``stop_ids`` are the right ends."""
        if token_id in self.stop_ids:
            return "end_of_turn"
        return "tag" if token_id in self.special_ids else None

    def is_joined(self, token_id: int) -> bool:
        """Return False: special tokens hold no text."""
        return False

    def is_mark(self, token_id: int) -> bool:
        """Tell whether it is a special token."""
        return token_id in self.special_ids


def num_system_turns(turns: Sequence[Turn]) -> int:
    """Count the system turns at the beginning of a dialogue."""
    return next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
