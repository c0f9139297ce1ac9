"""The fate of every dialogue: a side of the split, or a reason to leave it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from tuning.corpus.catalogue import Catalogue
from tuning.corpus.cleaning import FEW_SPEAKERS, FEW_TURNS, Rows
from tuning.corpus.common_runs import RunPiece, Signer, common_runs, likeness
from tuning.corpus.duplicates import Clusters, Ints
from tuning.corpus.sources import num_copies, sources_of
from tuning.progress import Bar
from tuning.reading.accounts import SIDES, TRAIN, VALIDATION
from tuning.reading.engine import map_in_order
from tuning.run.params import DataParams

FATES: Final = (
    *SIDES,
    "few_speakers",
    "few_turns",
    "duplicate",
    "near_duplicate",
    "over_max_dialogues",
    "weight",
)
"""A fate is an index into these; the sides come first, at the numbers that ``split`` gives them."""
_OPEN: Final = 255


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The fates of a catalogue's dialogues."""

    fates: npt.NDArray[np.uint8]
    """``[D]`` of indices into ``FATES``."""
    kept: Ints
    """The dialogues on some side, in the fixed random order."""
    clusters: Ints
    """``[D]``: equal for dialogues that say the same or nearly the same."""
    num_straddling: int
    """Dialogues left out because one that says the same is held out."""
    renamed: dict[int, int]
    """Dialogues whose id another one has, by index, with the number that tells them apart."""
    copies: Ints
    """``[D]``: how often each training dialogue is trained per epoch; 1 for all others."""
    num_common_runs: int
    """Runs of five words that so many dialogues share that they are no likeness."""

    @property
    def dropped(self) -> Ints:
        """The dialogues that are on no side."""
        return np.flatnonzero(self.fates >= len(SIDES))


def repeated_ids(rows: Rows) -> tuple[Ints, Ints]:
    """Dialogues whose id another one has: with the same content, and with a different one.

    Of each id, the first in the fixed random order is in neither.
    """
    order = _canonical(rows, rows["id"])
    ids, contents = rows["id"][order], rows["content"][order]
    begins = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])[: len(ids)])
    first = np.repeat(begins, np.diff(np.append(begins, len(rows))))
    later = first != np.arange(len(rows))
    same = (contents == contents[first]).all(axis=1)
    return order[later & same], order[later & ~same]


def select(catalogue: Catalogue, data: DataParams) -> Selection:
    """Decide, in this order: too few speakers or turns, repeated ids, duplicates, maximum, weights.

    The maximum and weights concern training alone. A larger ``max_dialogues`` keeps all that a
    smaller one keeps; what weights leave out makes no room for others.
    """
    rows = catalogue.rows
    fates = np.full(len(rows), _OPEN, np.uint8)
    same_record, other_record = repeated_ids(rows)
    fates[same_record] = FATES.index("duplicate")
    fates[rows["too_few"] == FEW_SPEAKERS] = FATES.index("few_speakers")
    fates[rows["too_few"] == FEW_TURNS] = FATES.index("few_turns")

    open_ones = np.flatnonzero(fates == _OPEN)
    open_ones = open_ones[_canonical(rows[open_ones])]
    exact, clusters, num_common_runs = _clusters(catalogue, open_ones, data)
    # Within a cluster, held-out dialogues first, then by the fixed random order
    held_out_first = VALIDATION - rows["side"][open_ones]
    ranked = open_ones[np.lexsort([held_out_first, clusters[open_ones]])]
    is_first = np.append(True, clusters[ranked][1:] != clusters[ranked][:-1])[: len(ranked)]
    first = ranked[is_first]
    sizes = np.diff(np.append(np.flatnonzero(is_first), len(ranked)))
    sides = rows["side"]
    loses_side = sides[ranked] < np.repeat(sides[first], sizes)
    stays = is_first if data.deduplicate == "keep_one" else ~loses_side
    leaves = ranked[~stays]
    says_the_same = np.isin(exact[leaves], exact[ranked[stays]])
    fates[leaves] = np.where(says_the_same, FATES.index("duplicate"), FATES.index("near_duplicate"))

    kept = ranked[stays]
    kept = kept[_canonical(rows[kept])]
    fates[kept] = sides[kept]
    if data.max_dialogues is not None:
        trained = kept[sides[kept] == TRAIN]
        fates[trained[data.max_dialogues :]] = FATES.index("over_max_dialogues")
        kept = kept[fates[kept] < len(SIDES)]
    copies = _copies(rows, fates, data)
    fates[copies == 0] = FATES.index("weight")
    kept = kept[copies[kept] > 0]
    return Selection(
        fates=fates,
        kept=kept,
        clusters=clusters,
        num_straddling=int(loses_side.sum()),
        renamed=_numbered(rows, other_record),
        copies=copies,
        num_common_runs=num_common_runs,
    )


def _copies(rows: Rows, fates: npt.NDArray[np.uint8], data: DataParams) -> Ints:
    """``[D]``: how often a dialogue is trained, by the weight of its source; 1 if it is not."""
    copies = np.ones(len(rows), np.int64)
    for source in sources_of(data):
        trained = np.flatnonzero((fates == TRAIN) & (rows["source"] == source.number))
        copies[trained] = num_copies(rows["order"][trained], source.weight)
    return copies


def _numbered(rows: Rows, repeated: Ints) -> dict[int, int]:
    """Number the dialogues of one id from 2, in the fixed random order of their contents."""
    numbers: dict[int, int] = {}
    last: dict[int, int] = {}
    for index in repeated.tolist():
        own = int(rows["id"][index])
        last[own] = numbers[index] = last.get(own, 1) + 1
    return numbers


def _clusters(catalogue: Catalogue, open_ones: Ints, data: DataParams) -> tuple[Ints, Ints, int]:
    """``[D]`` twice: clusters of equal content, of equal or nearly equal content; common runs."""
    content = catalogue.rows["content"]
    clusters = Clusters(len(catalogue))
    clusters.join_equal(
        content[open_ones, 0], open_ones, lambda one, other: content[one, 1] == content[other, 1]
    )
    exact = clusters.roots().copy()
    one_of_each = open_ones[exact[open_ones] == open_ones]
    compared = np.sort(one_of_each)
    num_runs = int(catalogue.rows["num_runs"][compared].sum())
    threshold = data.near_duplicate_threshold
    num_readings = 3 * len(compared)  # two for common runs
    with Bar("prep: near duplicates", "dialogues read", num_readings) as progress:

        def read() -> Iterator[RunPiece]:
            for piece in catalogue.run_pieces(compared):
                yield piece
                progress.update(len(piece.num_runs))

        common = common_runs(read, len(compared), num_runs, data.common_run_share)
        catalogue.write_bands(map_in_order(partial(Signer, common, threshold), read()))
    verdicts: dict[tuple[int, int], bool] = {}

    def is_near(one: int, other: int) -> bool:
        pair = (one, other)
        if pair not in verdicts:
            runs, others = map(catalogue.distinct_runs, pair)
            verdicts[pair] = likeness(runs, others, common) >= threshold
        return verdicts[pair]

    places = np.searchsorted(compared, one_of_each)
    with Bar("prep: near duplicates", "rounds", catalogue.num_bands) as progress:
        for number in range(catalogue.num_bands):
            clusters.join_equal(catalogue.band(number)[places], one_of_each, is_near)
            progress.update()
    return exact, clusters.roots(), len(common)


def _canonical(rows: Rows, *first: npt.NDArray[np.uint64]) -> Ints:
    """Indices that sort rows by other keys, then in a fixed random order of their contents."""
    return np.lexsort([rows["id"], rows["text"], rows["order"], *first])


def shared_between_sides(selection: Selection, catalogue: Catalogue) -> dict[str, float]:
    """Count what the sides share: contents and clusters, which must be none, and speakers.

    ``any_speaker_seen`` and ``all_speakers_seen`` are shares of the validation dialogues whose
    speakers' names stand in training too.
    """
    fates, rows = selection.fates, catalogue.rows
    held_out = (fates != TRAIN) & (fates < len(SIDES))
    train = fates == TRAIN
    contents, clusters = rows["content"][:, 0], selection.clusters
    counts = rows["num_speakers"].astype(np.int64)
    names = catalogue.speakers()
    seen = np.isin(names, names[np.repeat(train, counts)])
    starts = np.cumsum(counts) - counts
    num_seen = np.add.reduceat(np.append(seen.astype(np.int64), 0), starts) if len(rows) else counts
    validation = fates == VALIDATION
    num_validation = max(1, int(validation.sum()))
    return {
        "num_shared_contents": len(np.intersect1d(contents[train], contents[held_out])),
        "num_shared_clusters": len(np.intersect1d(clusters[train], clusters[held_out])),
        "any_speaker_seen": int((num_seen[validation] > 0).sum()) / num_validation,
        "all_speakers_seen": int((num_seen == counts)[validation].sum()) / num_validation,
    }
