"""What many dialogues share is no likeness: a system prompt, an instruction's preamble, a form.

A run of five words is common if it stands in more than a share of the dialogues that say different
things. Two dialogues are near duplicates if they are alike as a whole and also in what is left of
them without common runs: a prompt that both carry does not make them alike, and what two tasks ask
about the same text does not either. Counts are exact, whatever the order of the data.

The price: near copies of one dialogue that make up more than the share of the data cannot be told
from a form that was filled in so often, and are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuning.corpus.duplicates import Ints, UInts, band_hashes

MIN_DIALOGUES = 5
"""A run in fewer dialogues is never common: in ten dialogues, a tenth is one."""

_SLOTS_PER_COUNT = 4
_MAX_SLOT_BITS = 24
_TABLES = (0, 32)
"""Each takes a run's slot from other bits of its hash, from this one on."""


@dataclass(frozen=True, slots=True)
class RunPiece:
    """Hashed runs of five words of some dialogues."""

    runs: UInts
    """Of one dialogue after another, each in its order, repeats included."""
    num_runs: Ints
    """``[D]``."""


def common_runs(
    pieces: Callable[[], Iterator[RunPiece]], num_dialogues: int, num_runs: int, share: float
) -> UInts:
    """Runs that stand in more than a share of the dialogues, and in at least ``MIN_DIALOGUES``.

    The first pass adds up, for slots that many runs share, how often any of them occurs. No run
    occurs more often than its slot, so the second pass need only count, exactly, the few whose
    slots are over the limit. Memory follows from the dialogues' mean length and the share, not from
    their number.

    Args:
        pieces: Called once for each pass; every dialogue is in one piece.
        num_dialogues: In all pieces.
        num_runs: In all pieces.
        share: Of ``num_dialogues``; 1 makes nothing common.

    Returns:
        Distinct hashes, ascending.
    """
    most = max(MIN_DIALOGUES - 1, int(share * num_dialogues))
    # A slot's other runs add up to a quarter of the limit, or less
    bits = min(_MAX_SLOT_BITS, (_SLOTS_PER_COUNT * num_runs // most).bit_length())
    tables = [np.zeros(2**bits, np.int64) for _ in _TABLES]
    for piece in pieces():
        for table, shift in zip(tables, _TABLES, strict=True):
            table += np.bincount(_slots(piece.runs, shift, bits), minlength=len(table))

    found, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    for piece in pieces():
        is_candidate = np.ones(len(piece.runs), np.bool_)
        for table, shift in zip(tables, _TABLES, strict=True):
            is_candidate &= table[_slots(piece.runs, shift, bits)] > most
        candidates, places = np.unique(piece.runs[is_candidate], return_inverse=True)
        dialogues = np.repeat(np.arange(len(piece.num_runs)), piece.num_runs)[is_candidate]
        # Once for each dialogue that it stands in, however often it stands there
        pairs = np.unique(dialogues * len(candidates) + places)
        in_piece = np.bincount(pairs % max(1, len(candidates)), minlength=len(candidates))
        found, places = np.unique(np.concatenate([found, candidates]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, in_piece])).astype(np.int64)
    return found[counts > most]


def _slots(runs: UInts, shift: int, bits: int) -> Ints:
    return ((runs >> np.uint64(shift)) & np.uint64(2**bits - 1)).astype(np.int64)


def is_own(runs: UInts, common: UInts) -> npt.NDArray[np.bool_]:
    """Which runs are not among the common ones, which ascend."""
    if not len(common):
        return np.ones(len(runs), np.bool_)
    places = np.minimum(np.searchsorted(common, runs), len(common) - 1)
    is_found: npt.NDArray[np.bool_] = common[places] == runs
    return ~is_found


def jaccard(one: UInts, other: UInts) -> float:
    """The share of all runs of two sets, each without repeats, that is in both."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def likeness(one: UInts, other: UInts, common: UInts) -> float:
    """The lesser of two similarities: of all runs, and of those that are not common.

    Where neither dialogue has a run of its own, every run is one that many share and tells nothing:
    they are alike (1) only if they have the same runs, else not at all (0).

    Args:
        one: The distinct runs of one dialogue, ascending.
        other: Those of the other.
        common: Ascending.
    """
    own, others = (runs[is_own(runs, common)] for runs in (one, other))
    if not len(own) and not len(others):
        return float(np.array_equal(one, other))
    return min(jaccard(one, other), jaccard(own, others))


class Signer:
    """Hashes dialogues into bands: near duplicates are equal in at least one."""

    def __init__(self, common: UInts, threshold: float) -> None:
        """Take the common runs, ascending, and the similarity from which dialogues are alike."""
        self._common = common
        self._threshold = threshold

    def __call__(self, piece: RunPiece) -> UInts:
        """``[D, bands]`` of the runs that are not common; of all where there is no other."""
        own = is_own(piece.runs, self._common)
        offsets = np.append(0, np.cumsum(piece.num_runs))
        own_offsets = np.append(0, np.cumsum(own))[offsets]
        bands = band_hashes(piece.runs[own], own_offsets.astype(np.uint64), self._threshold)
        for number in np.flatnonzero(own_offsets[1:] == own_offsets[:-1]).tolist():
            # Only the same runs are alike, so one hash of them serves as every band
            runs = np.unique(piece.runs[offsets[number] : offsets[number + 1]])
            digest = hashlib.blake2b(runs.tobytes(), digest_size=8).digest()
            bands[number] = int.from_bytes(digest, "big")
        return bands
