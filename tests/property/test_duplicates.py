"""Near duplicates are found, counted, and never on two sides of the split."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import WORDS, as_record, generated, nearly, prepare_dialogues, prepare_records
from tests.thorough import few_or_all
from tuning.corpus.common_runs import jaccard
from tuning.corpus.duplicates import (
    MAX_COMPARED,
    NUM_PERMUTATIONS,
    Clusters,
    UInts,
    band_hashes,
    bands_for,
    shingle_hashes,
)
from tuning.dialogue import Dialogue, Turn

SHORT = [*WORDS[:4], "a", "ab", "b"]
word_lists = st.lists(st.sampled_from(SHORT), max_size=14)


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """Runs of five words, by the definition; fewer words are one run."""
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def distinct_hashes(words: list[str]) -> UInts:
    return np.unique(shingle_hashes([words])[0])


def all_words(dialogue: Dialogue) -> list[str]:
    return [word for turn in dialogue.turns for word in turn.utterance.split()]


def similarity(one: Dialogue, other: Dialogue) -> float:
    a, b = runs(all_words(one)), runs(all_words(other))
    return len(a & b) / len(a | b)


@given(word_lists, word_lists)
@settings(max_examples=few_or_all(200))
def test_similarity_is_the_share_of_five_word_runs(one: list[str], other: list[str]) -> None:
    a, b = runs(one), runs(other)
    assert jaccard(distinct_hashes(one), distinct_hashes(other)) == len(a & b) / len(a | b)


@given(st.lists(word_lists, max_size=6))
def test_dialogues_hashed_together_are_hashed_as_alone(words: list[list[str]]) -> None:
    hashes, offsets = shingle_hashes(words)
    bands = band_hashes(hashes, offsets, 0.7)
    assert offsets.tolist() == [0, *np.cumsum([max(1, len(w) - 4) for w in words]).tolist()]
    for number, of_dialogue in enumerate(words):
        alone, its_offsets = shingle_hashes([of_dialogue])
        assert np.array_equal(hashes[int(offsets[number]) : int(offsets[number + 1])], alone)
        assert np.array_equal(bands[number], band_hashes(alone, its_offsets, 0.7)[0])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_the_bands_miss_one_true_pair_in_a_thousand_at_most(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= NUM_PERMUTATIONS
    assert (1 - threshold**rows) ** bands <= 1e-3
    longer = NUM_PERMUTATIONS // (rows + 1)
    assert rows == NUM_PERMUTATIONS or (1 - threshold ** (rows + 1)) ** longer > 1e-3


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_pairs_at_the_threshold_share_a_band(threshold: float) -> None:
    """Of 300 pairs just above it, where a thousandth may be missed: one, twice at the most."""
    source = random.Random(5)
    missed = pairs = 0
    while pairs < 300:
        one = source.choices(WORDS, k=120)
        other = list(one)
        for _ in range(source.randint(1, 12)):
            other[source.randrange(120)] = source.choice(WORDS)
        alike = jaccard(distinct_hashes(one), distinct_hashes(other))
        if threshold <= alike < threshold + 0.05:
            pairs += 1
            first, second = band_hashes(*shingle_hashes([one, other]), threshold)
            missed += not (first == second).any()
    assert missed <= 2


def mutated(num_dialogues: int, seed: int) -> list[Dialogue]:
    """Families of dialogues that differ in a few words."""
    source = random.Random(seed)
    dialogues: list[Dialogue] = []
    while len(dialogues) < num_dialogues:
        [parent] = generated(1, seed=source.randrange(2**30), num_turns=6)
        for number in range(source.randint(1, 4)):
            turns = []
            for turn in parent.turns:
                words = turn.utterance.split()
                if source.random() < 0.25:
                    words[source.randrange(len(words))] = source.choice(WORDS)
                turns.append(Turn(turn.speaker, " ".join(words)))
            dialogues.append(Dialogue(f"{parent.dialogue_id}-{number}", tuple(turns)))
    return dialogues


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("deduplicate", ["keep_one", "keep_all"])
@pytest.mark.parametrize("group_by", [None, "owner"])
def test_no_near_pair_straddles_the_split(
    threshold: float, deduplicate: str, group_by: str | None
) -> None:
    """Against all pairs, compared one by one by the definition."""
    corpus = mutated(160, seed=11)
    records = [as_record(d, owner=n % 50) for n, d in enumerate(corpus)]
    prepared = prepare_records(
        records,
        near_duplicate_threshold=threshold,
        deduplicate=deduplicate,
        group_by=group_by,
        test_fraction=0.1,
    )
    near = [p for p in combinations(corpus, 2) if similarity(*p) >= threshold]
    assert len(near) > 20
    side = prepared.side_of()
    together = [
        (side[one.dialogue_id], side[other.dialogue_id])
        for one, other in near
        if one.dialogue_id in side and other.dialogue_id in side
    ]
    assert all(one == other for one, other in together)
    assert bool(together) == (deduplicate == "keep_all")
    # Nobody is left out without a near twin that is kept, or is left out in favour of one.
    kept = {d.dialogue_id for d in prepared.kept}
    assert {reason for reason, _ in prepared.dropped} <= {"duplicate", "near_duplicate"}
    for _, dialogue in prepared.dropped:
        twins = [pair for pair in near if dialogue in pair]
        assert twins
    assert len(kept) + len(prepared.dropped) == len(corpus)
    assert prepared.ledger["split"]["num_shared_clusters"] == 0


def test_a_pair_that_would_straddle_loses_its_training_copy_and_moves_nothing() -> None:
    base = generated(60)
    alone = prepare_dialogues(base).side_of()
    copies = [nearly(d, f"copy-{d.dialogue_id}", "zzz") for d in base]
    for deduplicate in ("keep_one", "keep_all"):
        prepared = prepare_dialogues([*base, *copies], deduplicate=deduplicate)
        side = prepared.side_of()
        assert all(alone[key] == side[key] for key in alone.keys() & side.keys())
        on_side = prepare_dialogues(copies).side_of()
        num_straddling = 0
        for dialogue, copy in zip(base, copies, strict=True):
            was = {alone[dialogue.dialogue_id], on_side[copy.dialogue_id]}
            found = [side.get(d.dialogue_id) for d in (dialogue, copy)]
            if was == {"train", "val"}:
                num_straddling += 1
                assert sorted(found, key=str) == [None, "val"]
            elif deduplicate == "keep_all":
                assert set(found) == was
            else:
                assert found.count(None) == 1
        assert num_straddling > 5
        assert prepared.ledger["duplicates"]["num_straddling"] == num_straddling
        assert prepared.ledger["duplicates"]["num_clusters"] == 60
        assert prepared.ledger["num_dialogues"]["dropped_near_duplicate"] == len(prepared.dropped)


def test_exact_and_near_duplicates_are_told_apart() -> None:
    base = generated(40)
    shouted = Dialogue(
        "shouted", tuple(Turn(f"x{t.speaker}", t.utterance.upper()) for t in base[0].turns)
    )
    prepared = prepare_dialogues([*base, shouted, nearly(base[1], "near", "zzz")])
    assert sorted(reason for reason, _ in prepared.dropped) == ["duplicate", "near_duplicate"]
    assert {d.dialogue_id for _, d in prepared.dropped} <= {
        "shouted",
        "near",
        base[0].dialogue_id,
        base[1].dialogue_id,
    }


def test_the_threshold_decides() -> None:
    base = generated(40)
    copy = nearly(base[0], "copy", "zzz")
    found = similarity(base[0], copy)
    assert 0.85 < found < 0.95
    for threshold, num_dropped in ((found, 1), (found + 1e-9, 0), (1.0, 0), (0.5, 1)):
        prepared = prepare_dialogues([*base, copy], near_duplicate_threshold=threshold)
        assert len(prepared.dropped) == num_dropped


def test_a_chain_is_one_cluster_and_its_order_does_not_matter() -> None:
    keys = np.array([7, 7, 7, 7, 9, 7], np.uint64)
    chain = {frozenset(pair) for pair in ((0, 3), (3, 1), (1, 5))}
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 5, 3, 2, 4]):
        among = np.array(order)
        clusters = Clusters(6)
        clusters.join_equal(keys[among], among, lambda a, b: frozenset((a, b)) in chain)
        assert clusters.roots().tolist() == [0, 0, 2, 0, 4, 0]


def test_a_key_that_all_share_does_not_cost_its_square() -> None:
    asked = 0

    def ask(_: int, __: int) -> bool:
        nonlocal asked
        asked += 1
        return False

    Clusters(1000).join_equal(np.zeros(1000, np.uint64), np.arange(1000), ask)
    assert 1000 < asked <= 1000 * MAX_COMPARED
