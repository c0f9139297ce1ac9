"""The text that every model is scored on: cut in turns and bytes, never in tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tuning.dialogue import Dialogue, Turn, trained_turns


def cut_evaluation_set(
    dialogues: Iterable[Dialogue],
    *,
    max_dialogues: int | None,
    max_turns: int,
    max_bytes: int,
    loss_on: str | Sequence[str],
) -> tuple[list[Dialogue], int]:
    """The first turns of the first dialogues, the same for every tokenizer.

    Each dialogue keeps its turns before the first response and, from there on, ``max_bytes``
    (UTF-8, utterances only), within ``max_turns``: a response that goes on is cut there, another
    turn left out. Turns that are not trained get the weight 0: they are no responses. A dialogue
    with no response left is left out.

    Returns:
        The cut dialogues, and how many were left out.
    """
    cut: list[Dialogue] = []
    num_left_out = 0
    for dialogue in dialogues:
        if max_dialogues is not None and len(cut) == max_dialogues:
            break
        trained = trained_turns(dialogue.turns, dialogue.loss_on or loss_on)
        turns = tuple(
            turn if is_trained else replace(turn, weight=0.0)
            for turn, is_trained in zip(dialogue.turns[:max_turns], trained, strict=False)
        )
        kept = _cut_to(replace(dialogue, turns=turns), max_bytes)
        if kept.responses:
            cut.append(kept)
        else:
            num_left_out += 1
    return cut, num_left_out


def _cut_to(dialogue: Dialogue, max_bytes: int) -> Dialogue:
    """Cut behind so many bytes from the first response on; calls of tools are never cut through."""
    responses = dialogue.responses
    if not responses:
        return dialogue
    first = responses[0]
    turns = list(dialogue.turns[:first])
    room = max_bytes
    for number, turn in enumerate(dialogue.turns[first:], first):
        room -= len(turn.text.encode())
        if room < 0:
            if turn.tool_calls:
                turns += [turn] * (number == first)
            elif number in responses:
                room += len(turn.text.encode())
                beginning = _said_within(turn.utterance, room)
                turns += [replace(turn, utterance=beginning, is_cut=True)] * bool(beginning)
            break
        turns.append(turn)
    return replace(dialogue, turns=tuple(turns))


def beginning_of(text: str, max_bytes: int) -> str:
    """The longest beginning of whole words that fits."""
    ends = [len(text), *(space.start() for space in re.finditer(r"\s+", text))]
    fitting = [text[:end] for end in ends if len(text[:end].encode()) <= max_bytes]
    return max(fitting, key=len, default="")


def _said_within(text: str, max_bytes: int) -> str:
    """The whole words that fit; characters, where words without spaces would lose half of it."""
    words = beginning_of(text, max_bytes)
    if 2 * len(words.encode()) >= max_bytes:
        return words
    return text.encode()[:max_bytes].decode(errors="ignore").rstrip()


def text_sha256(dialogues: Iterable[Dialogue]) -> str:
    """One hash over all texts in order: equal where two evaluations scored the same responses."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        order = {speaker: index for index, speaker in enumerate(dialogue.speakers)}
        for turn in dialogue.turns:
            digest.update(f"{order[turn.speaker]}\x1f{turn.text}{_kind(turn)}\x1e".encode())
        digest.update(b"\x1d")
    return digest.hexdigest()


def _kind(turn: Turn) -> str:
    if turn.weight == 0:
        return "\x1fcontext"
    return "\x1fcut" if turn.is_cut else ""
