"""Which side of the split a dialogue is on: a property of its own content and of nothing else.

Adding, removing, shuffling or renaming dialogues moves none of the others, and two dialogues with
the same content are always on the same side. The seed plays no part, so that runs with different
seeds are measured on the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stages.corpus.deduplicate import content_hash
from stages.corpus.dialogue import Dialogue


def draw(dialogue: Dialogue, key: str) -> float:
    """A number in [0, 1), uniform over contents and independent between keys."""
    digest = hashlib.blake2b(content_hash(dialogue), key=key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def select(
    dialogues: Iterable[Dialogue], max_dialogues: int | None
) -> tuple[list[Dialogue], list[Dialogue]]:
    """The ``max_dialogues`` that come first in a fixed random order, and the rest, in that order.

    A larger ``max_dialogues`` keeps all that a smaller one keeps.
    """
    ordered = sorted(
        dialogues, key=lambda dialogue: (draw(dialogue, "order"), dialogue.dialogue_id)
    )
    end = len(ordered) if max_dialogues is None else max_dialogues
    return ordered[:end], ordered[end:]


def split(
    dialogues: Iterable[Dialogue], validation_fraction: float
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Training and validation dialogues, each in the order given."""
    train: list[Dialogue] = []
    validation: list[Dialogue] = []
    for dialogue in dialogues:
        is_validation = draw(dialogue, "split") < validation_fraction
        (validation if is_validation else train).append(dialogue)
    return train, validation
