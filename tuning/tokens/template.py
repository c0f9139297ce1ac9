r"""A template: the one owner of how turns become token ids.

A turn has three parts, a tag for its speaker, its content and an end, each of any number of tokens.
Each part is encoded on its own, so the border between what is trained and what is not is known by
position and cannot drift. Text that spells a special token is encoded as text.

Pretrained models expect text as their tokenizers write it. So where one begins every text with a
token of its own (Llama's, Gemma's), every dialogue begins with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Token ids of one turn's parts, in order."""

    speaker: str
    tag: list[int]
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


Ending = Literal["end_of_turn", "tag"]
"""The token that ended a turn; ``tag`` is a speaker's, or another that no turn holds."""


def context_ids(template: Template, turns: Iterable[EncodedTurn]) -> list[int]:
    """Return the ids of a dialogue's first turns, or of a part that stands alone."""
    return [*template.start, *(token for turn in turns for token in turn.ids)]


class Template(Protocol):
    """A way to write turns as token ids."""

    name: str
    """Its name in a folder's ``template.json``."""
    tokenizer: PreTrainedTokenizerFast
    start: list[int]
    """Ids that begin a dialogue, or a part of one that stands alone: ``first_token``."""
    end: list[int]
    """Ids that end a turn."""
    stop_ids: frozenset[int]
    """Ids of which the end of each turn holds exactly one, and no content any."""
    untrained_ids: frozenset[int]
    """Ids that no model is to learn to write: tags, padding, what begins a text."""

    has_roles: bool
    """Whether a role is written as such, and not as one more speaker."""
    lacks: frozenset[str]
    """Parts of a dialogue that it has no place for: ``reasoning``, ``tools``."""

    def tags(self, dialogue: Dialogue) -> dict[str, list[int]]:
        """Return the ids that begin the turns of each speaker of a dialogue."""

    def ending_of(self, token_id: int) -> Ending | None:
        """Tell how a model that writes this token ends its turn; None if it does not."""

    def is_joined(self, token_id: int) -> bool:
        """Tell whether a token holds text of a turn and, behind it, the turn's end."""

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        """Encode the dialogue's turns, in order, part by part."""

    def num_tokens(self, dialogue: Dialogue) -> int:
        """Count the tokens of all turns, also where there are more speakers than tags."""

    def spelled_tags(self, dialogue: Dialogue) -> dict[str, str]:
        """Spell each speaker's tag for people, also where there is no such tag."""
