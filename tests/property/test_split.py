"""Splitting and selecting depend on what a dialogue says, and on nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.prep import read_all
from tests.corpora import (
    Prepared,
    as_record,
    contents,
    corpora,
    data_params,
    generated,
    nearly,
    prepare_dialogues,
    prepare_records,
)
from tests.thorough import few_or_all
from tuning.corpus.catalogue import Catalogue
from tuning.corpus.duplicates import bands_for, content_hash
from tuning.corpus.selection import select, shared_between_sides
from tuning.corpus.split import side_of
from tuning.dialogue import Dialogue, Turn
from tuning.reading.accounts import TEST, TRAIN, VALIDATION

BASE = generated(60)
"""Enough for both sides, whatever is added to it."""


def renamed(dialogue: Dialogue) -> Dialogue:
    """Another id and other speaker names, the same words."""
    return Dialogue(
        dialogue.dialogue_id[::-1] + "x",
        tuple(Turn(f"new {turn.speaker}", turn.utterance) for turn in dialogue.turns),
    )


def contents_by_side(prepared: Prepared) -> dict[str, Counter[bytes]]:
    return {name: Counter(map(content_hash, side)) for name, side in prepared.sides.items()}


def drawn_side(dialogue: Dialogue, validation: float, test: float = 0.0) -> int:
    return side_of(content_hash(dialogue), validation_fraction=validation, test_fraction=test)


@given(corpora(), st.randoms(use_true_random=False), st.sampled_from([None, 30]))
@settings(max_examples=few_or_all(25))
def test_order_ids_and_speaker_names_change_nothing(
    drawn: list[Dialogue], source: random.Random, max_dialogues: int | None
) -> None:
    corpus = [*drawn, *BASE]
    other = [renamed(dialogue) for dialogue in corpus]
    source.shuffle(other)
    one, another = (prepare_dialogues(c, max_dialogues=max_dialogues) for c in (corpus, other))
    assert contents_by_side(one) == contents_by_side(another)
    reasons = [Counter(reason for reason, _ in prepared.dropped) for prepared in (one, another)]
    assert reasons[0] == reasons[1]


@given(st.randoms(use_true_random=False), st.sampled_from(["keep_one", "keep_all"]))
@settings(max_examples=few_or_all(15))
def test_shuffled_input_gives_the_same_files(source: random.Random, deduplicate: str) -> None:
    corpus = [*BASE, *(Dialogue(f"again{n}", d.turns) for n, d in enumerate(BASE[:9]))]
    shuffled = source.sample(corpus, len(corpus))
    first, second = (prepare_dialogues(c, deduplicate=deduplicate) for c in (corpus, shuffled))
    assert first.sides == second.sides
    assert first.ledger == second.ledger


@given(corpora(), corpora(), st.sampled_from(["keep_one", "keep_all"]))
@settings(max_examples=few_or_all(25))
def test_added_and_removed_dialogues_move_no_other_across_the_split(
    old: list[Dialogue], added: list[Dialogue], deduplicate: str
) -> None:
    """One of the others may be left out, where the added ones say the same; none moves."""
    more = [Dialogue(f"added-{d.dialogue_id}", d.turns) for d in added]
    few = prepare_dialogues([*BASE, *old], deduplicate=deduplicate).side_of()
    many = prepare_dialogues([*more, *BASE, *old], deduplicate=deduplicate).side_of()
    assert all(few[key] == many[key] for key in few.keys() & many.keys())
    assert {d.dialogue_id for d in BASE} <= many.keys()


@given(corpora(), st.floats(0.1, 0.6), st.floats(0, 0.3))
@settings(max_examples=few_or_all(25))
def test_no_content_is_on_two_sides(drawn: list[Dialogue], validation: float, test: float) -> None:
    prepared = prepare_dialogues(
        [*drawn, *BASE],
        validation_fraction=validation,
        test_fraction=test,
        deduplicate="keep_all",
    )
    found = [set(side) for side in contents_by_side(prepared).values()]
    assert sum(map(len, found)) == len(set().union(*found))
    assert prepared.ledger["split"]["num_shared_contents"] == 0


@given(contents)
@settings(max_examples=few_or_all(60))
def test_case_and_white_space_are_not_content(content: tuple[Turn, ...]) -> None:
    shown = Dialogue("x", tuple(Turn(t.speaker, f"{t.utterance} and tea") for t in content))
    loud = Dialogue("y", tuple(Turn(t.speaker, f" {t.utterance}\n AND  Tea ") for t in content))
    assert content_hash(shown) == content_hash(loud)


def test_unicode_composition_is_not_content_but_the_border_of_turns_is() -> None:
    def hashed(*turns: tuple[str, str]) -> bytes:
        return content_hash(Dialogue("x", tuple(Turn(*turn) for turn in turns)))

    assert hashed(("a", "caf\u00e9")) == hashed(("a", "cafe\u0301"))
    assert hashed(("a", "\uff46ine")) == hashed(("a", "fine"))
    different = {
        hashed(("a", "yes no")),
        hashed(("a", "yesno")),
        hashed(("a", "yes"), ("a", "no")),
        hashed(("a", "yes"), ("b", "no")),
        hashed(("a", "no"), ("b", "yes")),
        hashed(("a", "yes"), ("b", "no"), ("a", "")),
        hashed(("a", "yes\x1e1\x1fno")),
    }
    assert len(different) == 7

    twelve = [(f"s{number}", "hi") for number in range(12)]
    assert hashed(*twelve, ("s1", "0ok")) != hashed(*twelve, ("s10", "ok"))
    assert hashed(*twelve, ("s0", "yes1"), ("s1", "no")) != hashed(
        *twelve, ("s0", "yes"), ("s11", "no")
    )


@pytest.mark.parametrize(("small", "large"), [(5, 20), (20, 30), (29, 30)])
def test_a_larger_selection_keeps_all_of_a_smaller_one(small: int, large: int) -> None:
    few, many = (prepare_dialogues(BASE, max_dialogues=n) for n in (small, large))
    assert len(few.sides["train"]) == small
    assert few.side_of().items() <= many.side_of().items()
    assert many.sides["train"][:small] == few.sides["train"]
    assert many.sides["val"] == few.sides["val"]


def test_the_fractions_are_honoured_within_their_noise() -> None:
    corpus = generated(2000)
    held_out: set[Dialogue] = set()
    for fraction in (0.05, 0.2, 0.5):
        validation = {d for d in corpus if drawn_side(d, fraction) == VALIDATION}
        deviation = (2000 * fraction * (1 - fraction)) ** 0.5
        assert abs(len(validation) - 2000 * fraction) < 3.5 * deviation
        assert held_out < validation
        held_out = validation


def test_a_test_set_is_drawn_by_itself() -> None:
    """It takes alike from both sides, and moves nothing between them."""
    corpus = generated(2000)
    without, with_test = ([drawn_side(d, 0.2, test) for d in corpus] for test in (0.0, 0.1))
    moves = Counter(zip(without, with_test, strict=True))
    assert moves.keys() == {
        (TRAIN, TRAIN),
        (VALIDATION, VALIDATION),
        (TRAIN, TEST),
        (VALIDATION, TEST),
    }
    for side, expected in ((TRAIN, 160), (VALIDATION, 40)):
        assert abs(moves[side, TEST] - expected) < 3.5 * (expected * 0.9) ** 0.5

    prepared = prepare_dialogues(corpus[:200], test_fraction=0.1)
    assert [len(prepared.sides[side]) for side in ("train", "val", "test")] == [
        prepared.ledger["num_dialogues"][side] for side in ("train", "validation", "test")
    ]
    assert len(prepared.sides["test"]) > 5


def test_a_maximum_concerns_training_alone_and_is_a_fair_draw_from_it() -> None:
    """Were the draws of side and order one, the first dialogues would all be of one kind."""
    corpus = generated(2000)
    whole, few = (
        prepare_dialogues(corpus, max_dialogues=n, validation_fraction=0.2, test_fraction=0.1)
        for n in (None, 100)
    )
    for side in ("val", "test"):
        assert few.sides[side] == whole.sides[side]
    assert few.sides["train"] == whole.sides["train"][:100]
    drawn = [drawn_side(d, 0.5) for d in few.sides["train"]]
    # Of those that are not drawn at 0.2, 5 in 8 are not drawn at 0.5 either
    assert abs(drawn.count(TRAIN) - 62.5) < 3.5 * (100 * 5 / 8 * 3 / 8) ** 0.5


def test_a_groups_dialogues_stay_together() -> None:
    corpus = generated(300)
    records = [as_record(d, customer=n % 40) for n, d in enumerate(corpus)]
    prepared = prepare_records(records, group_by="customer", test_fraction=0.2)
    sides: dict[int, set[str]] = {}
    for number, dialogue in enumerate(corpus):
        sides.setdefault(number % 40, set()).add(prepared.side_of()[dialogue.dialogue_id])
    assert all(len(of_group) == 1 for of_group in sides.values())
    assert Counter(side for [side] in sides.values()).keys() == {"train", "val", "test"}


def chats(num_people: int, num_dialogues: int) -> list[Dialogue]:
    """Pairs of people, one of whom takes part in every sixth dialogue."""
    source = random.Random(3)
    dialogues = []
    for number, dialogue in enumerate(generated(num_dialogues)):
        one, other = source.sample(range(num_people), 2)
        pair = (f"p{one}", "hub" if number % 6 == 0 else f"p{other}")
        turns = tuple(Turn(pair[n % 2], t.utterance) for n, t in enumerate(dialogue.turns))
        dialogues.append(Dialogue(dialogue.dialogue_id, turns))
    return dialogues


def test_held_out_speakers_are_nowhere_in_training_though_all_are_connected() -> None:
    """And a validation dialogue has at least one speaker that training has never seen."""
    prepared = prepare_dialogues(chats(200, 900), group_by="speakers", validation_fraction=0.2)
    in_training = {s for d in prepared.sides["train"] for s in d.speakers}
    assert all(set(d.speakers) - in_training for d in prepared.sides["val"])
    share = len(prepared.sides["val"]) / 900
    assert 0.12 < share < 0.28
    assert prepared.ledger["split"]["all_speakers_seen"] == 0
    assert 0 < prepared.ledger["split"]["any_speaker_seen"] < 1


def test_a_speaker_is_on_the_same_side_alone_and_in_company() -> None:
    alone = [
        Dialogue(f"alone-{d.dialogue_id}", (Turn(d.turns[0].speaker, f"{n} is my number"),))
        for n, d in enumerate(chats(200, 300))
    ]
    corpus = [*chats(200, 300), *alone]
    prepared = prepare_dialogues(corpus, group_by="speakers", validation_fraction=0.2)
    in_training = {s for d in prepared.sides["train"] for s in d.speakers}
    assert all(set(d.speakers) - in_training for d in prepared.sides["val"])


@pytest.mark.parametrize("seen", [True, False])
def test_the_share_of_speakers_seen_in_training(seen: bool) -> None:
    first = prepare_dialogues(BASE).side_of()
    corpus = [
        Dialogue(
            d.dialogue_id,
            tuple(
                Turn(
                    t.speaker if seen or first[d.dialogue_id] == "train" else f"v{n % 2}",
                    t.utterance,
                )
                for n, t in enumerate(d.turns)
            ),
        )
        for d in BASE
    ]
    split: dict[str, Any] = prepare_dialogues(corpus).ledger["split"]
    assert (split["any_speaker_seen"], split["all_speakers_seen"]) == (float(seen), float(seen))


def test_what_two_sides_share_is_counted(tmp_path: Path) -> None:
    """Against a selection that was made wrongly: prep itself refuses to publish such a one."""
    again = [Dialogue(f"again-{n}", d.turns) for n, d in enumerate(BASE[:3])]
    near = [nearly(d, f"near-{n}", "zzz") for n, d in enumerate(BASE[3:5])]
    path = tmp_path / "mine.jsonl"
    corpus = [*BASE, *again, *near]
    path.write_text("".join(json.dumps(as_record(d)) + "\n" for d in corpus))
    data = data_params()
    with Catalogue(tmp_path / "scratch", bands_for(data.near_duplicate_threshold)[0]) as catalogue:
        read_all(path, data, catalogue)
        catalogue.finish()
        selection = select(catalogue, data)
        fates = np.full(len(corpus), TRAIN, np.uint8)
        assert shared_between_sides(replace(selection, fates=fates), catalogue) == {
            "num_shared_contents": 0,
            "num_shared_clusters": 0,
            "any_speaker_seen": 0.0,
            "all_speakers_seen": 0.0,
        }
        fates[len(BASE) :] = VALIDATION
        shared = shared_between_sides(replace(selection, fates=fates), catalogue)
        assert (shared["num_shared_contents"], shared["num_shared_clusters"]) == (3, 5)
