"""The coherence test's blocks: contexts and responses that could be confused.

A block holds N (context, response) pairs of N dialogues at one turn index, with responses of nearly
one length, so that neither depth nor length tells which response belongs to which context. It
follows from the evaluation set's text alone, in whatever order the dialogues come: every model and
tokenizer gets the same blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tuning.dialogue import Dialogue, to_line
from tuning.evaluation_set.text import beginning_of, text_sha256

FIRST_RESPONSE_TURN = 3
"""Index of the first turn that is a block's response; before it there is little but greetings."""

RESPONSE_TURN_STEP = 2
"""Every other turn from there on: contexts of one dialogue differ by a whole exchange."""

MIN_RESPONSE_BYTES = 20
"""Shorter responses (``yeah, me too``) fit any context."""

MAX_LENGTH_RATIO = 1.25
"""Bytes of a block's longest response per byte of its shortest."""


@dataclass(frozen=True)
class Block:
    """N pairs of context and response, all at one turn index."""

    turn: int
    """Index of the responses in their dialogues, from 0."""
    dialogues: tuple[int, ...]
    """``[N]`` Indices of the dialogues in the evaluation set."""
    pairs: tuple[Dialogue, ...]
    """``[N]`` The dialogues up to their response, which is the last turn."""

    @property
    def responses(self) -> tuple[str, ...]:
        """The N responses' texts."""
        return tuple(_response(pair) for pair in self.pairs)

    @property
    def sha256(self) -> str:
        """Hash of all texts."""
        return text_sha256(self.pairs)


def make_blocks(
    dialogues: Sequence[Dialogue], *, num_candidates: int, max_blocks: int
) -> list[Block]:
    """Blocks of ``num_candidates`` pairs, in order of their turn index.

    A dialogue is in one block at most per turn index, in several blocks all the same. In a block no
    two responses and no two contexts have one text, and no response is longer than
    ``MAX_LENGTH_RATIO`` times the shortest: a small set has no ten whole responses of one length,
    so a longer one is cut after a whole word. Of more than ``max_blocks`` blocks, those with the
    smallest hashes are taken.
    """
    longest = max((len(dialogue.turns) for dialogue in dialogues), default=0)
    blocks = [
        block
        for turn in range(FIRST_RESPONSE_TURN, longest, RESPONSE_TURN_STEP)
        for block in _blocks_at(turn, dialogues, num_candidates)
    ]
    chosen = sorted(blocks, key=lambda block: block.sha256)[:max_blocks]
    return sorted(chosen, key=lambda block: (block.turn, block.sha256))


def blocks_sha256(blocks: Iterable[Block]) -> str:
    """One hash over all blocks in order: equal where two evaluations used the same."""
    return hashlib.sha256("\n".join(block.sha256 for block in blocks).encode()).hexdigest()


def as_lines(blocks: Iterable[Block]) -> str:
    """A line per block, for people and other programs: its turn, its hash, its pairs as dialogues.

    The last turn of each is the response as it was scored.
    """
    lines = []
    for block in blocks:
        head = json.dumps({"turn": block.turn, "sha256": block.sha256})
        pairs = ", ".join(to_line(pair) for pair in block.pairs)
        lines.append(f'{head[:-1]}, "pairs": [{pairs}]}}\n')
    return "".join(lines)


def _blocks_at(turn: int, dialogues: Sequence[Dialogue], num_candidates: int) -> list[Block]:
    """Blocks of neighbours by length; the shortest that fill no block are left out."""
    waiting = sorted(
        (
            (index, replace(dialogue, turns=dialogue.turns[: turn + 1]))
            for index, dialogue in enumerate(dialogues)
            if turn in dialogue.responses
            and len(dialogue.turns[turn].text.encode()) >= MIN_RESPONSE_BYTES
        ),
        key=lambda item: (len(_response(item[1]).encode()), _texts(item[1]), item[1].dialogue_id),
    )
    waiting = waiting[len(waiting) % num_candidates :]
    blocks: list[Block] = []
    while len(waiting) >= num_candidates:
        shortest = len(_response(waiting[0][1]).encode())
        block: list[tuple[int, Dialogue]] = []
        left: list[tuple[int, Dialogue]] = []
        seen: set[str | tuple[str, ...]] = set()
        for index, pair in waiting:
            response = _cut(_response(pair), shortest, int(MAX_LENGTH_RATIO * shortest))
            texts: set[str | tuple[str, ...]] = {response, _texts(pair)[:-1]}
            if response and len(block) < num_candidates and seen.isdisjoint(texts):
                last = pair.turns[-1].saying(response)
                block.append((index, replace(pair, turns=(*pair.turns[:-1], last))))
                seen |= texts
            else:
                left.append((index, pair))
        if len(block) == num_candidates:
            indices, pairs = zip(*block, strict=True)
            blocks.append(Block(turn, indices, pairs))
            waiting = left
        else:
            waiting = waiting[1:]
    return blocks


def _cut(text: str, min_bytes: int, max_bytes: int) -> str:
    """The longest beginning of whole words that fits, or nothing if it has not ``min_bytes``."""
    longest = beginning_of(text, max_bytes)
    return longest if len(longest.encode()) >= min_bytes else ""


def _response(pair: Dialogue) -> str:
    return pair.turns[-1].text


def _texts(pair: Dialogue) -> tuple[str, ...]:
    return tuple(turn.text for turn in pair.turns)
