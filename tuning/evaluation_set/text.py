"""The text that every model is scored on: cut in turns and bytes, never in tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tuning.dialogue import Dialogue, trained_turns


def cut_evaluation_set(
    dialogues: Iterable[Dialogue],
    *,
    max_dialogues: int | None,
    max_turns: int,
    max_bytes: int,
    loss_on: str | Sequence[str],
) -> tuple[list[Dialogue], int]:
    """The first turns of the first dialogues, the same for every tokenizer.

    Each dialogue keeps as many whole turns as there are in ``max_turns`` and ``max_bytes`` (UTF-8,
    utterances only). Turns that are not trained get the weight 0: they are no responses. A dialogue
    with no response left is left out.

    Returns:
        The cut dialogues, and how many were left out.
    """
    cut: list[Dialogue] = []
    num_left_out = 0
    for dialogue in dialogues:
        if max_dialogues is not None and len(cut) == max_dialogues:
            break
        num_bytes = 0
        num_turns = 0
        for turn in dialogue.turns[:max_turns]:
            num_bytes += len(turn.text.encode())
            if num_bytes > max_bytes:
                break
            num_turns += 1
        trained = trained_turns(dialogue.turns, dialogue.loss_on or loss_on)
        turns = tuple(
            turn if is_trained else replace(turn, weight=0.0)
            for turn, is_trained in zip(dialogue.turns[:num_turns], trained, strict=False)
        )
        kept = replace(dialogue, turns=turns)
        if kept.responses:
            cut.append(kept)
        else:
            num_left_out += 1
    return cut, num_left_out


def text_sha256(dialogues: Iterable[Dialogue]) -> str:
    """One hash over all texts in order: equal where two evaluations scored the same responses."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        order = {speaker: index for index, speaker in enumerate(dialogue.speakers)}
        for turn in dialogue.turns:
            context = "" if turn.weight > 0 else "\x1fcontext"
            digest.update(f"{order[turn.speaker]}\x1f{turn.text}{context}\x1e".encode())
        digest.update(b"\x1d")
    return digest.hexdigest()
