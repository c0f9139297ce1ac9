"""The side of the split that a dialogue is on, which follows from its own content alone.

Adding, removing, shuffling or renaming dialogues moves none of the others, and two dialogues with
the same content are always on the same side. The seed plays no part, so that runs with different
seeds are measured on the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tuning.reading.accounts import TEST, TRAIN, VALIDATION


def draw(content: bytes, key: str) -> int:
    """A number in [0, 2^64), uniform over contents and independent between keys."""
    digest = hashlib.blake2b(content, key=key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def side_of(
    content: bytes,
    groups: Sequence[str] = (),
    *,
    validation_fraction: float,
    test_fraction: float = 0.0,
    groups_per_dialogue: int = 1,
) -> int:
    """Return ``TRAIN``, ``VALIDATION`` or ``TEST``.

    Without groups, the dialogue's content draws. With one group, the group draws, and all of its
    dialogues go with it. With several (its speakers, say), each of them draws, and the dialogue is
    held out if any of them is: one who is held out is nowhere in training, while a partner who is
    not may be on both sides. So no chain of shared partners pulls the whole corpus onto one side,
    and one who speaks with everybody (a hub) draws like everyone else; prep reports how many
    validation dialogues have speakers who were seen in training.

    Args:
        content: The dialogue's ``content_hash``.
        groups: Values of the field that must not straddle.
        validation_fraction: Probability of the validation side for what is not on the test side.
        test_fraction: Probability of the test side. It is drawn by itself: another fraction moves
            no dialogue between the other two sides.
        groups_per_dialogue: How many groups a dialogue has as a rule. Each is held out with
            probability 1 - (1 - fraction)^(1 / this), so that dialogues are with the fraction.
    """
    drawing = [group.encode() for group in groups] or [content]

    def is_drawn(key: str, fraction: float) -> bool:
        share: float = 1 - (1 - fraction) ** (1 / groups_per_dialogue)
        return min(draw(one, key) for one in drawing) < share * 2**64

    if is_drawn("test", test_fraction):
        return TEST
    return VALIDATION if is_drawn("split", validation_fraction) else TRAIN
