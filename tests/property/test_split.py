"""Splitting and selecting depend on what a dialogue says, and on nothing else."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus.deduplicate import content_hash, first_of_each
from stages.corpus.dialogue import Dialogue, Turn
from stages.corpus.split import select, split
from stages.params import DataParams
from stages.prep import prepare

utterances = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12
)
turns = st.builds(Turn, st.sampled_from(["ann", "bob", "cem"]), utterances)
contents = st.lists(turns, max_size=5).map(tuple)


@st.composite
def corpora(draw: st.DrawFn) -> list[Dialogue]:
    """Dialogues with ids of their own, some of them with the same content."""
    drawn = draw(st.lists(contents, max_size=12))
    repeated = draw(st.lists(st.sampled_from(drawn), max_size=4)) if drawn else []
    return [Dialogue(f"d{n}", content) for n, content in enumerate([*drawn, *repeated])]


def renamed(dialogue: Dialogue) -> Dialogue:
    """Another id and other speaker names, the same words."""
    return Dialogue(
        dialogue.dialogue_id[::-1] + "x",
        tuple(Turn(f"new {turn.speaker}", turn.utterance) for turn in dialogue.turns),
    )


def contents_of(dialogues: list[Dialogue]) -> Counter[bytes]:
    return Counter(map(content_hash, dialogues))


def sides(
    dialogues: list[Dialogue],
) -> list[Callable[[list[Dialogue]], tuple[list[Dialogue], list[Dialogue]]]]:
    """The three functions, each with arguments that fit the number of dialogues."""
    return [
        lambda corpus: split(corpus, 0.4),
        lambda corpus: select(corpus, len(dialogues) // 2),
        first_of_each,
    ]


def generated(num_dialogues: int, seed: int = 7) -> list[Dialogue]:
    """Small talk made of ten words."""
    source = random.Random(seed)
    words = ["yes", "no", "maybe", "tea", "rain", "sea", "hello", "why", "so", "well"]
    return [
        Dialogue(
            f"g{number}",
            tuple(Turn("ab"[turn % 2], " ".join(source.choices(words, k=6))) for turn in range(4)),
        )
        for number in range(num_dialogues)
    ]


@given(corpora(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_order_ids_and_speaker_names_change_nothing(
    corpus: list[Dialogue], source: random.Random
) -> None:
    other = [renamed(dialogue) for dialogue in corpus]
    source.shuffle(other)
    for divide in sides(corpus):
        for side, again in zip(divide(corpus), divide(other), strict=True):
            assert contents_of(side) == contents_of(again)


@given(corpora(), corpora())
@settings(max_examples=60)
def test_added_dialogues_move_no_old_one_across_the_split(
    old: list[Dialogue], added: list[Dialogue]
) -> None:
    train, validation = split(old, 0.4)
    added_train, added_validation = split(added, 0.4)
    assert split([*added, *old], 0.4) == (
        [*added_train, *train],
        [*added_validation, *validation],
    )


@given(corpora(), st.floats(0.05, 0.95))
@settings(max_examples=60)
def test_no_content_is_on_both_sides(corpus: list[Dialogue], fraction: float) -> None:
    train, validation = split(corpus, fraction)
    assert not contents_of(train).keys() & contents_of(validation).keys()
    assert sorted([*train, *validation], key=corpus.index) == corpus


@given(contents)
@settings(max_examples=60)
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


@given(corpora(), st.integers(0, 16), st.integers(0, 16))
@settings(max_examples=60)
def test_a_larger_selection_keeps_all_of_a_smaller_one(
    corpus: list[Dialogue], one: int, other: int
) -> None:
    small, large = sorted((one, other))
    kept, left = select(corpus, small)
    assert len(kept) == min(small, len(corpus))
    assert select(corpus, large)[0][: len(kept)] == kept
    assert [*kept, *left] == select(corpus, None)[0]


@given(corpora())
@settings(max_examples=60)
def test_the_first_of_each_content_is_kept(corpus: list[Dialogue]) -> None:
    kept, repeats = first_of_each(corpus)
    assert set(contents_of(kept).values()) <= {1}
    assert contents_of(kept).keys() == contents_of(corpus).keys()
    for repeat in repeats:
        [first] = [d for d in kept if content_hash(d) == content_hash(repeat)]
        assert corpus.index(first) < corpus.index(repeat)


def test_the_fraction_is_honoured_within_its_noise() -> None:
    corpus = generated(2000)
    assert len(contents_of(corpus)) == 2000
    smaller: set[Dialogue] = set()
    for fraction in (0.05, 0.2, 0.5):
        validation = set(split(corpus, fraction)[1])
        deviation = (2000 * fraction * (1 - fraction)) ** 0.5
        assert abs(len(validation) - 2000 * fraction) < 3.5 * deviation
        assert smaller < validation
        smaller = validation


def test_a_selection_is_a_fair_draw_from_both_sides_of_the_split() -> None:
    """Were the two draws one, the first dialogues selected would all be on one side."""
    kept, _ = select(generated(2000), 500)
    assert abs(len(split(kept, 0.2)[1]) - 100) < 3.5 * (500 * 0.2 * 0.8) ** 0.5


@given(
    corpora(),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([None, 100]),
    st.integers(0, 3),
)
@settings(max_examples=25)
def test_every_dialogue_of_a_file_is_in_exactly_one_bucket(
    drawn: list[Dialogue],
    min_speakers: int,
    min_turns: int,
    max_dialogues: int | None,
    num_invalid: int,
) -> None:
    corpus = [*drawn, *generated(110), *generated(20)]
    records = [
        {"turns": [{"speaker": t.speaker, "text": t.utterance} for t in d.turns]} for d in corpus
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.json"
        path.write_text(json.dumps([*records, *[{"turns": None}] * num_invalid]))
        train, validation, ledger = prepare(
            path,
            DataParams(
                path=str(path),
                format="dialogues",
                on_invalid="skip",
                max_dialogues=max_dialogues,
                min_speakers=min_speakers,
                min_turns=min_turns,
                validation_fraction=0.3,
            ),
        )
    stripped = [
        Dialogue(
            f"record-{number}",
            tuple(Turn(t.speaker, t.utterance.strip()) for t in d.turns if t.utterance.strip()),
        )
        for number, d in enumerate(corpus, start=1)
    ]
    by_id = {dialogue.dialogue_id: dialogue for dialogue in stripped}
    kept = [*train, *validation]
    assert all(by_id.pop(dialogue.dialogue_id) == dialogue for dialogue in kept)
    dropped = list(by_id.values())

    counts = ledger["num_dialogues"]
    assert (counts["train"], counts["validation"]) == (len(train), len(validation))
    assert counts["input"] == len(corpus) + num_invalid
    assert counts["dropped_invalid"] == num_invalid
    in_buckets = {
        name: sum(buckets[bucket] for bucket in buckets if bucket.startswith("dropped_"))
        for name, buckets in ledger.items()
        if name != "num_empty_messages"
    }
    assert in_buckets["num_dialogues"] == len(dropped) + num_invalid
    assert in_buckets["num_turns"] == sum(len(d.turns) for d in dropped)
    assert in_buckets["num_characters"] == sum(d.num_characters for d in dropped)
    assert ledger["num_characters"]["train"] == sum(d.num_characters for d in train)
    assert ledger["num_turns"]["validation"] == sum(len(d.turns) for d in validation)
    assert ledger["num_empty_messages"]["input"] == sum(
        not t.utterance.strip() for d in corpus for t in d.turns
    )
    assert all(len(d.turns) >= min_turns for d in kept)
    assert max(contents_of(kept).values()) == 1
