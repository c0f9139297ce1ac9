"""Finds dialogues that say the same: word for word, or nearly.

Exact: equal ``content_hash``. Near: the Jaccard similarity of their sets of five-word runs
(shingles) reaches a threshold, and so does that of the runs that few dialogues share
(``common_runs``). Candidates come from MinHash signatures cut into bands (Broder 1997; Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, chapter 3); every candidate is then compared
exactly. Whole pieces are hashed at once, and bands are sorted one at a time, so memory stays at a
few bytes per dialogue.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from tuning.dialogue import Dialogue, Turn

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
MISSED = 1e-3
"""Highest probability that two dialogues right at the threshold are in no band together."""
MAX_COMPARED = 64
"""Dialogues that one is compared with in one band: what many share must not cost its square."""

_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_NUM_WORDS_KEPT = 2**17


def normalised_words(dialogue: Dialogue) -> list[list[str]]:
    """Each turn's words without the differences that do not count: case, width, white space."""
    return [unicodedata.normalize("NFKC", said(turn)).casefold().split() for turn in dialogue.turns]


def said(turn: Turn) -> str:
    """All that a turn says, thoughts and calls included."""
    return f"{turn.reasoning}\n{turn.text}" if turn.reasoning else turn.text


def said_here(dialogue: Dialogue, words: list[list[str]]) -> list[str]:
    """The words by which a dialogue is like another one: not those of turns that have no weight.

    Branches of one tree begin alike; what is trained in each is its own. Where nothing is trained,
    all words count.
    """
    trained = [turn.weight > 0 for turn in dialogue.turns]
    if not any(trained):
        trained = [True] * len(trained)
    return [word for is_here, turn in zip(trained, words, strict=True) if is_here for word in turn]


def content_hash(dialogue: Dialogue, words: list[list[str]] | None = None) -> bytes:
    """32 bytes that are equal for dialogues with the same words by the same order of speakers.

    Case, white space, Unicode composition, ids and speaker names do not count.

    Args:
        dialogue: The dialogue.
        words: Its ``normalised_words``, where they are at hand.
    """
    index = {speaker: number for number, speaker in enumerate(dialogue.speakers)}
    words = normalised_words(dialogue) if words is None else words
    text = "".join(
        f"{index[turn.speaker]}\x1f{' '.join(of_turn)}\x1e"
        for turn, of_turn in zip(dialogue.turns, words, strict=True)
    )
    return hashlib.sha256(text.encode()).digest()


def shingle_hashes(words: Sequence[Sequence[str]]) -> tuple[UInts, UInts]:
    """Hashes of all runs of five words, repeats included.

    Args:
        words: The words of each dialogue; fewer than five make one run with nothing behind it.

    Returns:
        Hashes of all dialogues in order, and D + 1 offsets: dialogue d's are
        ``hashes[offsets[d] : offsets[d + 1]]``.
    """
    flat: list[str] = []
    lengths: list[int] = []
    for of_dialogue in words:
        flat += of_dialogue
        missing = max(0, SHINGLE_WORDS - len(of_dialogue))
        flat += [""] * missing
        lengths.append(len(of_dialogue) + missing)
    hashes = np.fromiter(map(_hashes.__getitem__, flat), np.uint64, len(flat))
    num_words = np.array(lengths, np.int64)
    num_runs = num_words - (SHINGLE_WORDS - 1)
    offsets = np.append(0, np.cumsum(num_runs))
    starts = np.append(0, np.cumsum(num_words))[:-1]
    # Where each run begins among the words
    first = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], num_runs)
    runs = hashes[first]
    for k in range(1, SHINGLE_WORDS):
        runs = _mix(runs, hashes[first + k])
    return runs, offsets.astype(np.uint64)


class _WordHashes(dict[str, int]):
    """Words' hashes, each found when it is first asked for; 0 for no word.

    A dict takes half the time of ``lru_cache``.
    """

    def __missing__(self, word: str) -> int:
        if len(self) == _NUM_WORDS_KEPT:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        found = self[word] = int.from_bytes(digest, "big") if word else 0
        return found


_hashes = _WordHashes()


def _mix(hashes: UInts, more: UInts) -> UInts:
    mixed = (hashes * _MULTIPLIER) ^ more
    return mixed ^ (mixed >> _SHIFT)


def bands_for(threshold: float) -> tuple[int, int]:
    """Number of bands, and rows in each: the longest for which few true pairs are missed.

    Two sets of similarity s share a band of r rows with probability s^r, hence one of b bands with
    1 - (1 - s^r)^b.
    """
    for rows in range(NUM_PERMUTATIONS, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MISSED:
            return bands, rows
    return NUM_PERMUTATIONS, 1


def band_hashes(runs: UInts, offsets: UInts, threshold: float) -> UInts:
    """``[D, bands]``: dialogues whose sets of runs are alike are equal in at least one column.

    Args:
        runs: Hashed runs of all dialogues in order.
        offsets: D + 1 of them, as ``shingle_hashes`` gives them.
        threshold: The similarity from which two sets are alike.
    """
    num_bands, rows = bands_for(threshold)
    num_dialogues = len(offsets) - 1
    if not num_dialogues:
        return np.empty((0, num_bands), np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(runs, offsets, NUM_PERMUTATIONS, _SEED)
    signatures = np.array(matrix.to_rows(), np.uint64)[:, : num_bands * rows]
    signatures = signatures.reshape(num_dialogues, num_bands, rows)
    mixed = np.zeros((num_dialogues, num_bands), np.uint64)
    for row in range(rows):
        mixed = _mix(mixed, signatures[:, :, row])
    return mixed


class Clusters:
    """Sets of dialogues that are joined two by two (union-find); each begins alone."""

    def __init__(self, num_dialogues: int) -> None:
        """Begin with every dialogue in a cluster of its own."""
        self._parent: Ints = np.arange(num_dialogues)

    def root(self, dialogue: int) -> int:
        """The least member of a dialogue's cluster."""
        parent = self._parent
        while parent[dialogue] != dialogue:
            parent[dialogue] = parent[parent[dialogue]]
            dialogue = int(parent[dialogue])
        return dialogue

    def join(self, one: int, other: int) -> None:
        """Make two clusters one."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low

    def roots(self) -> Ints:
        """``[D]``: the root of every dialogue."""
        roots = self._parent
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        return roots

    def join_equal(self, keys: UInts, among: Ints, is_same: Callable[[int, int], bool]) -> None:
        """Join dialogues that have an equal key and that ``is_same`` confirms.

        Args:
            keys: ``[M]``, one for each dialogue of ``among``.
            among: ``[M]`` dialogues.
            is_same: Not asked where both are in one cluster already; at most ``MAX_COMPARED``
                times per dialogue.
        """
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
        lengths = np.diff(begins)
        for start, length in zip(begins[:-1][lengths > 1], lengths[lengths > 1], strict=True):
            members = among[order[start : start + length]].tolist()
            met: dict[int, list[int]] = {}  # members met under this key, by their cluster's root
            for member in members:
                pairs = ((root, other) for root, others in met.items() for other in others)
                mine = {self.root(member)}
                for root, other in islice(pairs, MAX_COMPARED):
                    if root not in mine and is_same(other, member):
                        self.join(other, member)
                        mine.add(root)
                together = [other for root in mine for other in met.pop(root, ())]
                met[self.root(member)] = [*together, member]
