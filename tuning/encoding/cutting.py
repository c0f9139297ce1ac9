"""A dialogue of any length as windows of whole turns, each target token in exactly one of them.

With ``max_length`` 10 and one context turn, four turns of 4, 4, 4 and 3 tokens become::

    S1 a a E | S2 b b E            S2 b b E | S1 c c E      S1 c c E | S2 d E
    . t t t    . t t t             . . . .    . t t t       . . . .    . t t

``S1`` is a speaker tag, ``E`` the end of turn, ``t`` a target, ``.`` not a target. Where the model
expects a token at the beginning of a text, each window has it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuning.dialogue import Turn
from tuning.tokens.template import EncodedTurn


@dataclass(frozen=True, slots=True)
class Window:
    """``input_ids[i]`` is predicted from those before it and trained where ``is_target[i]``."""

    input_ids: list[int]
    is_target: list[bool]
    parts: Sequence[EncodedTurn] = field(default=(), compare=False)
    """The turns, and parts of turns, that stand in it one after another."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A dialogue's windows, and what did not come into any."""

    windows: list[Window]
    num_truncated: int
    """Tokens in no window, because no turn near them is trained."""


def trained_turns(turns: Sequence[Turn], loss_on: str) -> list[bool]:
    """Say of each turn whether it is trained: ``all``, ``last``, or those of a speaker or role.

    Whatever is asked for, what the data keeps out of training, a system text and a tool's answer
    are context.
    """
    last = len(turns) - 1
    return [
        turn.weight > 0
        and turn.role not in ("system", "tool")
        and (number == last if loss_on == "last" else loss_on in ("all", turn.speaker, turn.role))
        for number, turn in enumerate(turns)
    ]


def cut_windows(
    turns: Sequence[EncodedTurn],
    trained: Sequence[bool],
    *,
    max_length: int,
    context_turns: int,
    start_ids: Sequence[int] = (),
) -> Cut:
    """Cut a dialogue into windows of at most ``max_length`` tokens.

    A window begins with ``start_ids``, which are no targets, and takes as many whole turns as fit.
    Each but the first begins with up to ``context_turns`` earlier turns as untrained context, fewer
    where they would leave no room. A single turn that is too long for a window is split, its
    speaker tag repeated in every part. Windows without a target are left out. A tag is never a
    target; content and end of turn are.

    Raises:
        ValueError: a tag, an end and one token of content do not fit into a window.
    """
    max_length -= len(start_ids)
    # All parts (whole turns, or parts of one) end to end; ids and targets grow together.
    parts: list[EncodedTurn] = []
    input_ids: list[int] = []
    is_target: list[bool] = []
    ends: list[int] = []
    num_repeated: list[int] = []  # tokens of a part that an earlier part of its turn has too
    for turn, is_trained in zip(turns, trained, strict=True):
        for number, part in enumerate(_split_turn(turn, max_length)):
            parts.append(part)
            input_ids += part.tag
            input_ids += part.content
            input_ids += part.end
            is_target += [False] * len(part.tag)
            is_target += [is_trained] * (len(part.content) + len(part.end))
            ends.append(len(input_ids))
            num_repeated.append(len(part.tag) if number else 0)

    windows: list[Window] = []
    truncated: set[int] = set()
    start = 0
    while start < len(ends):
        first = ends[start - 1] if start else 0
        context = start
        room = max_length - (ends[start] - first)
        while context > 0 and start - context < context_turns:
            length = ends[context - 1] - (ends[context - 2] if context > 1 else 0)
            if length > room:
                break
            room -= length
            context -= 1
        stop = start + 1
        while stop < len(ends) and ends[stop] - ends[stop - 1] <= room:
            room -= ends[stop] - ends[stop - 1]
            stop += 1
        last = ends[stop - 1]
        if True in is_target[first:last]:
            begin = ends[context - 1] if context else 0
            targets = [False] * (len(start_ids) + first - begin) + is_target[first:last]
            ids = [*start_ids, *input_ids[begin:last]]
            windows.append(Window(ids, targets, parts[context:stop]))
            truncated.difference_update(range(context, start))
        else:
            truncated.update(range(start, stop))
        start = stop
    num_truncated = sum(
        ends[part] - (ends[part - 1] if part else 0) - num_repeated[part] for part in truncated
    )
    return Cut(windows, num_truncated)


def _split_turn(turn: EncodedTurn, max_length: int) -> list[EncodedTurn]:
    """The turn itself, or parts that fit, each with the tag; the last one holds the end."""
    if len(turn) <= max_length:
        return [turn]
    room = max_length - len(turn.tag)
    if room <= len(turn.end):
        raise ValueError(
            f"a window of {max_length} tokens has no room for a turn's tag and its end"
        )
    starts = range(0, len(turn.content), room)
    parts = [turn.content[start : start + room] for start in starts]
    if len(parts[-1]) + len(turn.end) > room:
        parts.append([])  # an end of several tokens is never cut in two
    return [EncodedTurn(turn.speaker, turn.tag, part, []) for part in parts[:-1]] + [
        EncodedTurn(turn.speaker, turn.tag, parts[-1], turn.end)
    ]
