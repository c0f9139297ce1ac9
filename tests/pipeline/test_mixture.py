"""A data set of the hub and a file of one's own in one mixture, from fetch to release, by dvc."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import as_record, generated
from tests.loopback_hub import COMMIT, REPO, loopback_hub
from tests.pipeline.test_pipeline import CHANGES, STAGES, Repository, copy_project
from tuning.dialogue import Dialogue, read_dialogues

HUB = {"name": REPO, "revision": COMMIT, "split": "train"}
SOURCES: dict[str, Any] = {
    "talk": {"files": ["hub/talk/**"], "weight": 2.0, "loss_on": "assistant"},
    "mine": {"files": ["mine.jsonl"]},
}


def write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """After a first ``dvc repro``, with the hub still there. The tests below follow each other."""
    folder = tmp_path_factory.mktemp("mixture")
    repository = Repository(folder / "clone")
    copy_project(repository.path, [turn.utterance for d in generated(9) for turn in d.turns] * 9)
    chats = [
        {
            "messages": [
                {"role": ("user", "assistant")[n % 2], "content": turn.utterance}
                for n, turn in enumerate(dialogue.turns)
            ]
        }
        for dialogue in generated(30, seed=1)
    ]
    write_lines(folder / "hub/data/train-00000-of-00001.jsonl", chats)
    write_lines(folder / "hub/data/test-00000-of-00001.jsonl", chats[:1])
    mine = [as_record(dialogue) for dialogue in generated(30, seed=2)]
    write_lines(repository.path / "data/raw/mine.jsonl", mine)
    for section, values in CHANGES.items():
        repository.change(section, **values)
    repository.change(
        "data",
        path="data/raw",
        hub={"talk": HUB},
        sources=SOURCES,
        max_dialogues=None,
        validation_fraction=0.2,
        test_fraction=0.0,
    )
    repository.run("git", "init", "--quiet")
    with (
        loopback_hub(folder / "hub", kind="dataset") as endpoint,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setenv("HF_ENDPOINT", endpoint)
        m.setenv("HF_HOME", str(folder / "hf"))
        m.setenv("NO_PROXY", "*")
        assert repository.repro() == STAGES
        yield repository


def training(repository: Repository) -> list[Dialogue]:
    return list(read_dialogues(repository.path / "data/prepared/train.jsonl"))


def test_both_sources_are_trained_each_in_its_way(repository: Repository) -> None:
    copies = Counter(d.dialogue_id.partition("#")[0] for d in training(repository))
    sources = {d.dialogue_id: d.source for d in training(repository)}
    assert {(sources[name], times) for name, times in copies.items()} == {("talk", 2), ("mine", 1)}
    ledger, tokens = (repository.json(f"metrics/{name}.json") for name in ("prep", "encode"))
    assert ledger["num_dialogues"]["input"] == 60
    in_file = [d for d in training(repository) if d.source == "talk"]
    assert len(in_file) == 2 * ledger["sources"]["talk"]["num_dialogues"]["train"]
    trained = tokens["num_trained_tokens_of_sources"]
    assert sum(trained.values()) == tokens["num_tokens"]["trained"]
    assert tokens["num_tokens"]["context"] > trained["talk"]  # the user's turns, and tags


def test_scores_are_given_by_source(repository: Repository) -> None:
    evaluation = repository.json("metrics/eval.json")
    assert evaluation["sources"].keys() == {"talk", "mine"}
    num_dialogues = [one["set"]["num_dialogues"] for one in evaluation["sources"].values()]
    assert sum(num_dialogues) == evaluation["set"]["num_dialogues"]
    bits = [one["tuned"]["bits_per_byte"] for one in evaluation["sources"].values()]
    assert min(bits) < evaluation["tuned"]["bits_per_byte"] < max(bits)
    page = (repository.path / "metrics/report.html").read_text(encoding="utf-8")
    assert "talk: bits per byte" in page


def test_the_card_and_the_receipt_name_the_data_set_and_its_commit(repository: Repository) -> None:
    card = (repository.path / "models/finetuned/README.md").read_text(encoding="utf-8")
    assert f"{REPO} at commit {COMMIT}" in card
    assert f"datasets:\n- {REPO}\n" in card
    assert "| of these, talk | " in card and "with weight 2:" in card
    receipt = repository.json("models/finetuned/receipt.json")
    assert receipt["params"]["data.hub.talk.revision"] == COMMIT
    assert "data/raw/hub/talk/data/train-00000-of-00001.jsonl" in receipt["inputs"]


def test_another_weight_fetches_nothing_and_scores_the_base_model_on_the_same_text(
    repository: Repository,
) -> None:
    assert repository.repro() == []
    few = json.loads(json.dumps(SOURCES))
    few["talk"]["weight"] = 0.5
    repository.change("data", sources=few)
    ran = repository.repro()
    assert ran == ["prep", "encode", "train", "score@tuned", "eval", "release"]
    assert repository.json("metrics/prep.json")["num_dialogues"]["dropped_weight"] > 0


def test_a_turn_that_nobody_takes_is_named(repository: Repository) -> None:
    wrong = json.loads(json.dumps(SOURCES))
    wrong["talk"]["loss_on"] = "asistant"
    repository.change("data", sources=wrong)
    output = repository.run("dvc", "repro", "encode", check=False).stderr
    assert "data.sources.talk.loss_on: 'asistant' trains no turn of data.sources.talk" in output
    assert "user, assistant" in output


def test_a_data_set_that_nothing_reads_is_named(repository: Repository) -> None:
    repository.change("data", path="data/raw/mine.jsonl", sources={})
    output = repository.run("dvc", "repro", "prep", check=False).stderr
    assert "data.hub.talk: it is fetched to data/raw/hub/talk" in output
    assert "Set data.path: data/raw/hub" in output


def test_another_split_is_fetched(repository: Repository) -> None:
    repository.change("data", path="data/raw/hub", hub={"talk": HUB | {"split": "test"}})
    assert repository.repro("fetch") == ["fetch"]
    found = [p.name for p in (repository.path / "data/raw/hub").rglob("*") if p.is_file()]
    assert found == ["test-00000-of-00001.jsonl"]
