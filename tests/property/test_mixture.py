"""Sources of a mixture: each weighs, is read and is trained by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import (
    Prepared,
    as_record,
    corpora,
    data_params,
    generated,
    prepare_dialogues,
    prepare_files,
    prepare_sources,
)
from tests.thorough import few_or_all
from tuning.corpus.duplicates import content_hash
from tuning.corpus.sources import assigned, sources_of
from tuning.dialogue import Dialogue, Turn
from tuning.reading.folders import data_files
from tuning.run.errors import UserError
from tuning.run.params import ColumnsParams, SourceParams

ANN = generated(60, seed=1)
BOB = generated(60, seed=2)
weights = st.floats(0, 3) | st.sampled_from([0.0, 1.0, 2.0])


def mixed(ann: float, bob: float, **changes: Any) -> Prepared:
    return prepare_sources(
        {"ann": ANN, "bob": BOB}, {"ann": {"weight": ann}, "bob": {"weight": bob}}, **changes
    )


def of(source: str, prepared: Prepared) -> list[tuple[str, Dialogue]]:
    """All that became of a source, in its order in the files."""
    kept = [(side, d) for side, found in prepared.sides.items() for d in found]
    return [(fate, d) for fate, d in [*kept, *prepared.dropped] if d.source == source]


def trained(prepared: Prepared, source: str) -> Counter[bytes]:
    """How often each of a source's dialogues stands in the training file."""
    return Counter(content_hash(d) for d in prepared.sides["train"] if d.source == source)


@given(weights, weights, st.floats(0.5, 3), st.sampled_from([None, 80]), corpora())
@settings(max_examples=few_or_all(12))
def test_another_weight_moves_no_other_sources_dialogue(
    before: float, after: float, bob: float, max_dialogues: int | None, shared: list[Dialogue]
) -> None:
    """Though both have some in common, though a maximum cuts, and never across the split."""
    again = [Dialogue(f"again-{d.dialogue_id}", d.turns) for d in shared]
    few, many = (
        prepare_sources(
            {"ann": [*ANN, *shared], "bob": [*BOB, *again]},
            {"ann": {"weight": ann}, "bob": {"weight": bob}},
            max_dialogues=max_dialogues,
        )
        for ann in sorted((before, after))
    )
    assert of("bob", few) == of("bob", many)
    assert few.sides["val"] == many.sides["val"]
    assert trained(few, "ann") <= trained(many, "ann")


@given(weights, st.sampled_from(["keep_one", "keep_all"]), corpora())
@settings(max_examples=few_or_all(12))
def test_every_sources_ledger_balances(
    weight: float, deduplicate: str, drawn: list[Dialogue]
) -> None:
    prepared = prepare_sources(
        {"ann": [*ANN, *drawn], "bob": BOB}, {"ann": {"weight": weight}}, deduplicate=deduplicate
    )
    total = Counter[str]()
    for name, num_input in (("ann", 60 + len(drawn)), ("bob", 60)):
        found = prepared.ledger["sources"][name]
        buckets = dict(found["num_dialogues"])
        total.update(buckets)
        assert buckets.pop("input") == num_input == sum(buckets.values())
        in_file = [d for d in prepared.sides["train"] if d.source == name]
        assert len(in_file) == buckets["train"] + found["num_repeated_dialogues"]
        assert sum(d.num_characters for d in in_file) == found["num_trained_characters"]
        left_out = sum(d.source == name and why == "weight" for why, d in prepared.dropped)
        assert left_out == buckets["dropped_weight"]
    assert total == prepared.ledger["num_dialogues"]
    num_in_file = len(prepared.sides["train"])
    repeated = num_in_file - prepared.ledger["num_dialogues"]["train"]
    assert repeated == prepared.ledger["num_repeated_dialogues"]
    ids = [d.dialogue_id for d in prepared.kept]
    assert len(set(ids)) == len(ids)


def test_a_weight_is_how_often_a_source_is_trained() -> None:
    once = trained(mixed(1, 1), "ann")
    assert set(once.values()) == {1}
    assert trained(mixed(3, 1), "ann") == Counter({content: 3 for content in once})
    for weight in (0.2, 1.2, 2.2):
        copies = trained(mixed(weight, 1), "ann")
        assert {copies[content] - int(weight) for content in once} == {0, 1}
        deviation = (len(once) * 0.2 * 0.8) ** 0.5
        assert abs(copies.total() - weight * len(once)) < 3.5 * deviation


def test_a_source_of_no_weight_is_only_measured() -> None:
    prepared = mixed(0, 1)
    assert {d.source for d in prepared.sides["train"]} == {"bob"}
    assert {d.source for d in prepared.sides["val"]} == {"ann", "bob"}


def test_repeats_stand_behind_all_that_is_trained_once() -> None:
    once, twice = (mixed(1, bob).sides["train"] for bob in (1, 2))
    assert twice[: len(once)] == once
    assert {d.dialogue_id for d in twice[len(once) :]} == {
        f"{d.dialogue_id}#2" for d in once if d.source == "bob"
    }


def test_what_is_repeated_is_redacted_each_time_and_listed_once() -> None:
    private = [
        Dialogue(d.dialogue_id, (*d.turns, Turn("a", f"write to {d.dialogue_id}@mail.example")))
        for d in ANN
    ]
    prepared = prepare_sources(
        {"ann": private, "bob": BOB}, {"ann": {"weight": 2}}, redact="replace"
    )
    said = [d.turns[-1].utterance for d in prepared.sides["train"] if d.source == "ann"]
    assert said == ["write to <EMAIL_1>"] * len(said)
    assert prepared.ledger["private_data"]["num_found"]["email"] == 60


def test_duplicates_are_found_across_sources() -> None:
    again = [Dialogue(f"again-{d.dialogue_id}", d.turns) for d in ANN[:20]]
    prepared = prepare_sources({"ann": ANN, "bob": [*BOB, *again]}, {})
    assert [why for why, _ in prepared.dropped] == ["duplicate"] * 20
    assert len(prepared.kept) == 120


def test_one_source_without_a_name_leaves_no_trace() -> None:
    prepared = prepare_dialogues(ANN)
    assert {(d.source, d.loss_on) for d in prepared.kept} == {("", "")}
    assert prepared.ledger["sources"] == {}
    [(_, named)] = of("ann", prepare_sources({"ann": ANN[:1], "bob": BOB}, {}))
    assert named.turns == ANN[0].turns


def test_each_source_is_read_by_its_own_columns_and_roles() -> None:
    rows = [
        [{"von": "agent" if n % 2 else "kunde", "sagt": t.utterance} for n, t in enumerate(d.turns)]
        for d in ANN
    ]
    files = {
        "ann.jsonl": [{"verlauf": row} for row in rows],
        "bob.jsonl": [as_record(d) for d in BOB],
    }
    prepared = prepare_files(
        files,
        "",
        sources={
            "ann": SourceParams(
                files=["a*"],
                columns=ColumnsParams(list="verlauf", who="von", text="sagt"),
                roles={"agent": "assistant", "kunde": "user"},
                loss_on="assistant",
            ),
            "bob": SourceParams(files=["b*"]),
        },
    )
    assert {t.role for _, d in of("ann", prepared) for t in d.turns} == {"user", "assistant"}
    assert {t.role for _, d in of("bob", prepared) for t in d.turns} == {None}
    assert {(d.source, d.loss_on) for d in prepared.kept} == {("ann", "assistant"), ("bob", "")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("hub/talk/data/train.jsonl", "hub/talk/test.jsonl", "mine.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def taken(path: Path, **patterns: list[str]) -> tuple[dict[str, str], list[str]]:
    sources = {name: SourceParams(files=files) for name, files in patterns.items()}
    files, passed_over = assigned(path, data_files(path), sources_of(data_params(sources=sources)))
    return {str(file.relative_to(path)): source.name for file, source in files}, passed_over


def test_files_go_to_their_source_and_the_others_are_named(folder: Path) -> None:
    assert taken(folder, talk=["hub/talk/data/*"], mine=["mine.*"]) == (
        {"hub/talk/data/train.jsonl": "talk", "mine.jsonl": "mine"},
        ["hub/talk/test.jsonl", "notes.txt"],
    )
    assert taken(folder, talk=["hub/**"], mine=["*.jsonl"])[1] == ["notes.txt"]


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"talk": ["**"], "mine": ["mine.jsonl"]}, ["mine.jsonl", "data.sources.talk", "both"]),
        (
            {"talk": ["hub/**"], "mine": ["*.csv"]},
            ["data.sources.mine.files", "*.csv", "there are"],
        ),
    ],
)
def test_a_file_of_two_sources_and_a_source_of_no_file_are_refused(
    folder: Path, patterns: dict[str, list[str]], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        taken(folder, **patterns)
    assert [word for word in words if word not in str(caught.value)] == []


def test_sources_need_a_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="no folder. Set data.path to the folder"):
        taken(folder / "mine.jsonl", mine=["**"])
