"""Several windows in one row of fixed length, invisible to each other.

Two windows of 3 and 2 tokens in a row of 6 (T = 6)::

    input_ids     a0 a1 a2 b0 b1 PAD
    segment_ids    1  1  1  2  2  -1
    position_ids   0  1  2  0  1   0
    labels      -100 a1 a2 -100 b1 -100      (a0 and b0 are speaker tags)

A token sees the tokens at or before it that have its own segment id. Pad tokens see pad tokens, so
no row of the mask is empty and no softmax yields NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = -100
PAD_SEGMENT = -1


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: put each window, longest first, into the fullest row that has room.

    Args:
        lengths: Tokens in each window; all in 1..capacity.
        capacity: Tokens per row.

    Returns:
        Rows of window indices. Every window is in exactly one; ties keep the windows' order, and of
        rows that are equally full the first is taken.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # [n]: rows with n free, a heap
    amounts = 0  # bit n is set where with_room[n] holds a row: the search is one shift
    for window in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[window]
        assert 1 <= length <= capacity
        enough = amounts >> length
        if enough:
            free = length + (enough & -enough).bit_length() - 1
            row = heappop(with_room[free])
            if not with_room[free]:
                amounts ^= 1 << free
            rows[row].append(window)
        else:
            free, row = capacity, len(rows)
            rows.append([window])
        if free > length:  # a full row is searched no more
            heappush(with_room[free - length], row)
            amounts |= 1 << (free - length)
    return rows


def attention_mask(segment_ids: Tensor) -> Tensor:
    """Return the mask of who sees whom, in the form of transformers' 4-D masks.

    Args:
        segment_ids: ``[B, T]``, equal within a window.

    Returns:
        Boolean ``[B, 1, T, T]``: entry ``[b, 0, i, j]`` is true where token i sees token j.
    """
    import torch  # encode packs too, and needs none of the seconds that torch takes to load

    num_tokens = segment_ids.shape[1]
    visible = segment_ids[:, None, :] == segment_ids[:, :, None]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=segment_ids.device).tril()
    return (visible & causal)[:, None]
