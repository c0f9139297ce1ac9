"""Which dialogues say the same thing."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from stages.corpus.dialogue import Dialogue


def content_hash(dialogue: Dialogue) -> bytes:
    """32 bytes that are equal for dialogues with the same words by the same order of speakers.

    Case, white space, Unicode composition, ids and speaker names do not count.
    """
    index = {speaker: number for number, speaker in enumerate(dialogue.speakers)}
    digest = hashlib.sha256()
    for turn in dialogue.turns:
        words = unicodedata.normalize("NFKC", turn.utterance).casefold().split()
        digest.update(f"{index[turn.speaker]}\x1f{' '.join(words)}\x1e".encode())
    return digest.digest()


def first_of_each(dialogues: Iterable[Dialogue]) -> tuple[list[Dialogue], list[Dialogue]]:
    """Split into the first dialogue of each content, and the repeats, both in order."""
    seen: set[bytes] = set()
    kept: list[Dialogue] = []
    repeats: list[Dialogue] = []
    for dialogue in dialogues:
        key = content_hash(dialogue)
        (repeats if key in seen else kept).append(dialogue)
        seen.add(key)
    return kept, repeats
