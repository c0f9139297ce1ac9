"""How far a heap grows under a process's tensors: not all that is freed is of use again.

PyTorch asks for a tensor's bytes at a multiple of 64, so glibc looks for a block that is larger by
96 bytes, and hands back what remains before and behind. Small blocks of PyTorch's own often land
just there. When the tensors at its sides are freed, such a block keeps the holes apart, and each is
too small for the next tensor of the very size that was there.
"""

from __future__ import annotations

from bisect import bisect_left, insort

ALIGNMENT = 64
HEADER = 16
LEAST = 32
"""Bytes of the smallest block."""
SMALL = (48, 32)
"""Bytes of small blocks: one of the first size beside each tensor, of the second beside every
``EVERY``-th. There are some; that these are their numbers was fitted to SmolLM2, trained whole."""
EVERY = 4


class Heap:
    """Blocks from 0 to ``top``: the smallest hole that fits is taken, or the heap grows."""

    def __init__(self) -> None:
        """Begin without a block."""
        self.top = 0
        self._sizes: dict[int, int] = {}
        """Of the blocks in use, by where they start."""
        self._holes: list[tuple[int, int]] = []
        """Sizes and starts, sorted."""
        self._starting: dict[int, int] = {}
        self._ending: dict[int, int] = {}
        """Sizes of holes by where they start, and by where they end."""
        self._kept: dict[int, list[int]] = {size: [] for size in SMALL}
        """Small blocks that are free, by size: kept for the next tensors."""
        self._num_tensors = 0
        self.has_small_blocks = True
        """Whether they come beside tensors; compiled code makes none from step to step."""

    def allocate(self, num_bytes: int) -> list[int]:
        """Find a place for a tensor; return its block and the small ones beside it."""
        self._num_tensors += 1
        num_small = (1 + (self._num_tensors % EVERY == 0)) if self.has_small_blocks else 0
        small = [
            kept.pop() if (kept := self._kept[size]) else self._take(size)
            for size in SMALL[:num_small]
        ]
        size = _block_size(num_bytes)
        start = self._take(size + ALIGNMENT + LEAST)
        whole = self._sizes.pop(start)
        block = _aligned(start)
        if 0 < block - start < LEAST:
            block += ALIGNMENT
        self._give_back(start, block - start)
        rest = start + whole - block - size
        if rest < LEAST:
            size, rest = size + rest, 0
        self._sizes[block] = size
        self._give_back(block + size, rest)
        return [block, *small]

    def free(self, place: list[int]) -> None:
        """Give back a tensor's place."""
        block, *small = place
        for size, each in zip(SMALL, small, strict=False):
            self._kept[size].append(each)
        self._give_back(block, self._sizes.pop(block))

    def _take(self, size: int) -> int:
        """Use the smallest hole of at least so many bytes, or what begins at the top."""
        index = bisect_left(self._holes, (size, -1))
        if index < len(self._holes):
            found, start = self._holes[index]
            self._remove_hole(start, found)
        else:
            found = self._ending.get(self.top, 0)
            start = self.top - found
            self._remove_hole(start, found)
            found = size
            self.top = start + size
        if found - size < LEAST:
            size = found
        self._sizes[start] = size
        self._give_back(start + size, found - size)
        return start

    def _give_back(self, start: int, size: int) -> None:
        """Make a hole, one with those at its sides."""
        if not size:
            return
        before, behind = self._ending.get(start, 0), self._starting.get(start + size, 0)
        self._remove_hole(start - before, before)
        self._remove_hole(start + size, behind)
        start, size = start - before, before + size + behind
        insort(self._holes, (size, start))
        self._starting[start] = self._ending[start + size] = size

    def _remove_hole(self, start: int, size: int) -> None:
        if size:
            self._holes.pop(bisect_left(self._holes, (size, start)))
            del self._starting[start], self._ending[start + size]


def _block_size(num_bytes: int) -> int:
    return max(LEAST, -(-(num_bytes + HEADER // 2) // HEADER) * HEADER)


def _aligned(start: int) -> int:
    return -(-(start + HEADER) // ALIGNMENT) * ALIGNMENT - HEADER
