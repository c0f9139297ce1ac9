"""A dialogue of any length as windows of tokens, each target token in exactly one of them.

With ``max_length`` 8 and at least two tokens of context, a head ``H`` and twelve tokens become::

    H a b c d e f g                H f g h i j k l
    . . t t t . t t                . . . t t t . t

``t`` is a target of the window, ``.`` is not. A later window begins with the head (system text and
tools) and as many of the tokens before its own as there is room for, even in the middle of a turn,
and never with fewer than ``min_context``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import compress, count

from tuning.tokens.template import Reading, Rendering


@dataclass(frozen=True, slots=True)
class Window:
    """``input_ids[i]`` is predicted from those before it and trained where ``is_target[i]``."""

    input_ids: list[int]
    is_target: list[bool]
    num_head: int = 0
    """Its first tokens that are the head, if it is a later window."""
    begin: int = 0
    """Index in the rendering of the first token behind those."""


def cut_windows(
    rendering: Rendering, *, max_length: int, min_context: int, num_head: int = 0
) -> list[Window]:
    """Cut a rendering into as few windows as hold every target once.

    The first begins at the beginning, if a target stands near enough to it.

    Args:
        rendering: Tokens and targets.
        max_length: Tokens of a window.
        min_context: Tokens before its own that a later window repeats at least, if there are so
            many; at most half of the window, and one or more: nothing else predicts its first.
        num_head: First tokens of the rendering that every window begins with; at most half of one.

    Returns:
        Windows in order, the last token of each a target; none without a target.
    """
    ids, is_target = rendering.input_ids, rendering.is_target
    places = [*compress(count(), is_target)]
    if not places:
        return []
    if len(ids) <= max_length:
        stop = places[-1] + 1
        return [Window(ids[:stop], is_target[:stop])]
    head = min(num_head, max_length // 2)
    room = max_length - head
    context = min(min_context, room // 2)
    windows: list[Window] = []
    number = 0  # of the first target that no window has yet
    while number < len(places):
        first = places[number]
        stop = max_length if first < max_length else first + room - context
        after = bisect_left(places, stop)
        stop = places[after - 1] + 1
        begin = 0 if stop <= max_length else stop - room
        kept = head if begin else 0
        targets = [False] * (kept + first - begin) + is_target[first:stop]
        windows.append(Window(ids[:kept] + ids[begin:stop], targets, kept, begin))
        number = after
    return windows


def windows_of(
    reading: Reading, rendering: Rendering, *, max_length: int, min_context: int
) -> list[Window]:
    """Cut a rendering; the head of its dialogue is sought only where it is cut at all."""
    is_long = len(rendering.input_ids) > max_length
    return cut_windows(
        rendering,
        max_length=max_length,
        min_context=min_context,
        num_head=reading.num_head(rendering) if is_long else 0,
    )


def weights_of(
    windows: Sequence[Window], shares: Sequence[float], stop_ids: Container[int]
) -> list[list[float]]:
    """Return the share in the loss of each token of a dialogue's windows; 0 for what is no target.

    Args:
        windows: All of the dialogue's, in order.
        shares: Those of the trained turns, in order.
        stop_ids: The ids of which each trained turn ends with one.
    """
    turn = 0
    weights: list[list[float]] = []
    for window in windows:
        weights.append([])
        for token_id, is_target in zip(window.input_ids, window.is_target, strict=True):
            weights[-1].append(shares[turn] if is_target else 0.0)
            turn += is_target and token_id in stop_ids
    return weights


def num_left_out(rendering: Rendering, windows: Sequence[Window]) -> int:
    """Count the tokens of a rendering that are in no window."""
    covered = 0  # end of what is covered from the beginning on
    num_missing = 0
    for window in windows:
        num_missing += max(0, window.begin - max(covered, window.num_head))
        covered = window.begin + len(window.input_ids) - window.num_head
    return num_missing + len(rendering.input_ids) - covered


def num_without_turn_before(
    windows: Sequence[Window], turn_starts: Sequence[int]
) -> tuple[int, int]:
    """Count the targets that do not see the turn before their own: not whole, and not at all.

    Args:
        windows: Those of a rendering.
        turn_starts: ``[K]`` The index in it at which each turn begins, ascending.
    """
    in_part = whole = 0
    for window in windows:
        first = bisect_right(turn_starts, window.begin) - 1  # the turn in which its own part begins
        for turn in (first, first + 1):
            if not 1 <= turn < len(turn_starts):
                continue
            start, stop = turn_starts[turn - 1], turn_starts[turn]
            if window.num_head < stop and window.begin > max(start, window.num_head):
                end = turn_starts[turn + 1] if turn + 1 < len(turn_starts) else None
                shift = window.num_head - window.begin
                own = slice(max(stop, window.begin) + shift, end and max(end + shift, 0))
                num_targets = sum(window.is_target[own])
                if window.begin < stop or window.num_head > start:
                    in_part += num_targets
                else:
                    whole += num_targets
    return in_part, whole
