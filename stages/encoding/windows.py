"""A dialogue of any length as windows of whole turns, each target token in exactly one of them.

With ``max_length`` 10 and one context turn, four turns of 4, 4, 4 and 3 tokens become::

    S1 a a E | S2 b b E            S2 b b E | S1 c c E      S1 c c E | S2 d E
    . t t t    . t t t             . . . .    . t t t       . . . .    . t t

``S1`` is a speaker tag, ``E`` the end of turn, ``t`` a target, ``.`` not a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.encoding.speakers import EncodedTurn


@dataclass(frozen=True, slots=True)
class Window:
    """``input_ids[i]`` is predicted from those before it and trained where ``is_target[i]``."""

    input_ids: list[int]
    is_target: list[bool]


def trained_turns(turns: Sequence[EncodedTurn], loss_on: str) -> list[bool]:
    """Which turns are trained: ``all``, ``last``, or those of the speaker of that name."""
    if loss_on == "last":
        return [number == len(turns) - 1 for number in range(len(turns))]
    return [loss_on in ("all", turn.speaker) for turn in turns]


def cut_windows(
    turns: Sequence[EncodedTurn], trained: Sequence[bool], *, max_length: int, context_turns: int
) -> list[Window]:
    """Cut a dialogue into windows of at most ``max_length`` tokens.

    A window takes as many whole turns as fit. Each but the first begins with up to
    ``context_turns`` earlier turns as untrained context, fewer where they would leave no room. A
    single turn that is too long for a window is split, its speaker tag repeated in every part.
    Windows without a target are left out. A tag is never a target; content and end of turn are.
    """
    pieces = [
        (piece, is_trained)
        for turn, is_trained in zip(turns, trained, strict=True)
        for piece in _split_turn(turn, max_length)
    ]
    windows: list[Window] = []
    start = 0
    while start < len(pieces):
        used = len(pieces[start][0])
        end = start + 1
        context = start
        while context > 0 and start - context < context_turns:
            length = len(pieces[context - 1][0])
            if used + length > max_length:
                break
            used += length
            context -= 1
        while end < len(pieces) and used + len(pieces[end][0]) <= max_length:
            used += len(pieces[end][0])
            end += 1
        window = _window(pieces[context:end], num_context=start - context)
        if any(window.is_target):
            windows.append(window)
        start = end
    return windows


def _split_turn(turn: EncodedTurn, max_length: int) -> list[EncodedTurn]:
    """The turn itself, or parts that fit, each with the tag; the last one holds the end."""
    if len(turn) <= max_length:
        return [turn]
    assert len(turn.end) == 1, "an end of turn of several tokens could be cut in two"
    body = turn.content + turn.end
    room = max_length - len(turn.tag)
    parts = [body[start : start + room] for start in range(0, len(body), room)]
    return [EncodedTurn(turn.speaker, turn.tag, part, []) for part in parts[:-1]] + [
        EncodedTurn(turn.speaker, turn.tag, parts[-1][:-1], turn.end)
    ]


def _window(pieces: Sequence[tuple[EncodedTurn, bool]], num_context: int) -> Window:
    """Ids and targets grow together, part by part."""
    input_ids: list[int] = []
    is_target: list[bool] = []
    for number, (turn, trained) in enumerate(pieces):
        for part, trainable in ((turn.tag, False), (turn.content, True), (turn.end, True)):
            input_ids += part
            is_target += [trainable and trained and number >= num_context] * len(part)
    return Window(input_ids, is_target)
