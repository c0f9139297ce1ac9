"""Data sets of the hub: exactly the files that a config and a split mean, or why there are none.

They come through the real client, in a process of its own, from a hub on loopback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loopback_hub import COMMIT, REPO, Fault, loopback_hub
from tests.tiny_model import make_tiny_gpt2
from tests.unit.test_fetch import assert_failed, files_in, project, run_fetch
from tuning.run.params import HubParams
from tuning.sources.hub_data import chosen_files

__all__ = ["project"]

SHARDS = [f"data/train_sft-0000{n}-of-00002.parquet" for n in range(2)]
NAMES = [
    ".gitattributes",
    "README.md",
    "data/test_sft-00000-of-00001.parquet",
    *SHARDS,
    "load.py",
]


def chosen(names: list[str], header: dict[str, Any] | None = None, **asked: Any) -> list[str]:
    return chosen_files(names, header or {}, HubParams(name=REPO, revision=COMMIT, **asked))


def refusal(names: list[str], header: dict[str, Any] | None = None, **asked: Any) -> str:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        chosen(names, header, **asked)
    return str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set as the hub has them: a card, a script that nobody should run, parquet files."""
    folder = tmp_path / "source"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"what {name} holds".encode())
    header = {"configs": [{"config_name": "default", "data_files": "data/train_sft-*"}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}---\n# Talk\n")
    return folder


def entry(**changes: Any) -> dict[str, Any]:
    return {"talk": {"name": REPO, "revision": COMMIT} | changes}


def test_exactly_the_files_of_the_split_arrive(source: Path, project: Path, tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    make_tiny_gpt2(base, ["hello, how are you?"])
    with loopback_hub(source, kind="dataset") as endpoint:
        result = run_fetch(project, str(base), None, entry(), HF_ENDPOINT=endpoint)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"fetch: data set {REPO} at revision {COMMIT}: 2 files, 0.0 MB\n" in result.stdout
    assert files_in(project / "data/raw/hub") == {f"talk/{name}" for name in SHARDS}
    for name in SHARDS:
        arrived = project / "data/raw/hub/talk" / name
        assert not arrived.is_symlink()
        assert arrived.read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gated", ["access is restricted", "HF_TOKEN"]),
        ("missing_repo", ["no such repository", "data.hub.talk.name"]),
        ("private_repo", ["it is private", "HF_TOKEN"]),
        ("missing_revision", ["no such commit", "History"]),
        ("server_error", ["500", "run again"]),
        ("truncated", ["download failed", "run again"]),
        ("wrong_bytes", [f"{SHARDS[0]} arrived damaged", "SHA-256", "Run again"]),
    ],
)
def test_a_failing_hub_is_named_and_leaves_nothing(
    fault: Fault, words: list[str], source: Path, project: Path
) -> None:
    with loopback_hub(source, fault, kind="dataset") as endpoint:
        result = run_fetch(project, "tiny", None, entry(), HF_ENDPOINT=endpoint)
    assert_failed(result, project, REPO, COMMIT, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revision": "main"}, ["data.hub.talk.revision: found 'main'", "a commit", "History"]),
        ({"revision": None}, ["data.hub.talk.revision: found None"]),
        ({"name": "talk"}, ["data.hub.talk.name: found 'talk'", "owner/name"]),
        ({"split": "train_gen"}, ["no split 'train_gen'", "its splits: train"]),
        ({"files": ["*.py"]}, ["load.py: not in a form that is read", ".jsonl"]),
    ],
)
def test_what_was_asked_for_wrongly_is_named(
    changes: dict[str, Any], words: list[str], source: Path, project: Path
) -> None:
    with loopback_hub(source, kind="dataset") as endpoint:
        result = run_fetch(project, "tiny", None, entry(**changes), HF_ENDPOINT=endpoint)
    assert_failed(result, project, *words)


def test_a_header_that_is_no_yaml_says_how_to_go_on(source: Path, project: Path) -> None:
    (source / "README.md").write_text("---\nconfigs: [\n---\n")
    with loopback_hub(source, kind="dataset") as endpoint:
        result = run_fetch(project, "tiny", None, entry(), HF_ENDPOINT=endpoint)
    assert_failed(result, project, "README.md is no YAML", "files: ['data/*.parquet']")


def test_shards_tell_their_split_whatever_it_is_called() -> None:
    assert chosen(NAMES, split="train_sft") == SHARDS
    assert chosen(NAMES, split="test_sft") == ["data/test_sft-00000-of-00001.parquet"]
    assert chosen(NAMES, split=None) == ["data/test_sft-00000-of-00001.parquet", *SHARDS]
    message = refusal(NAMES)
    assert "the data set has no split 'train'; its splits: test_sft, train_sft." in message


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train.json.gz", "train"),
        ("training/part-1.csv", "train"),
        ("chats_dev.jsonl", "validation"),
        ("en/valid-00000-of-00001.parquet", "validation"),
        ("eval.jsonl", "test"),
        ("train/data-00000-of-00001.arrow", "train"),
        ("train/test.jsonl", "test"),
        ("data/part-00000-of-00001.parquet", "part"),
    ],
)
def test_names_tell_a_split(name: str, split: str) -> None:
    other = "test.tsv" if split != "test" else "train.tsv"
    assert chosen([name, other, "extra.jsonl"], split=split) == [name]


def test_without_a_split_in_any_name_all_is_training_data() -> None:
    names = ["README.md", "chats.jsonl", "dataset_infos.json", "more/chats.jsonl"]
    assert chosen(names) == ["chats.jsonl", "more/chats.jsonl"]
    assert "no split 'test'; its splits: train." in refusal(names, split="test")
    assert "there are README.md" in refusal(["README.md"])


def test_a_config_without_a_header_is_a_folder() -> None:
    names = ["de/train.jsonl", "en/test.jsonl", "en/train.jsonl", "README.md"]
    assert chosen(names, config="en") == ["en/train.jsonl"]
    assert chosen(names) == ["de/train.jsonl", "en/train.jsonl"]
    assert "no config 'fr'" in refusal(names, config="fr")


@pytest.mark.parametrize(
    "data_files",
    [
        "a/*.jsonl",
        ["a/one.jsonl", "a/two.jsonl"],
        {"train": "a/*.jsonl", "test": "b/*.jsonl"},
        {"train": ["a/one.jsonl", "a/two.jsonl"]},
        [{"split": "train", "path": "a/**"}, {"split": "test", "path": ["b/*"]}],
    ],
)
def test_the_header_lists_files_in_any_of_its_forms(data_files: Any) -> None:
    names = ["a/one.jsonl", "a/two.jsonl", "b/one.jsonl", "train.jsonl"]
    header = {"configs": [{"config_name": "default", "data_files": data_files}]}
    assert chosen(names, header) == ["a/one.jsonl", "a/two.jsonl"]
    if "b" in str(data_files):
        assert chosen(names, header, split="test") == ["b/one.jsonl"]


def test_a_star_stays_within_a_folder() -> None:
    names = ["a.jsonl", "other/b.jsonl"]
    header = {"configs": [{"config_name": "default", "data_files": "*.jsonl"}]}
    assert chosen(names, header) == ["a.jsonl"]
    assert chosen(names, files=["*.jsonl"]) == ["a.jsonl"]
    assert chosen(names, files=["**/*.jsonl"]) == names


def test_of_several_configs_the_default_is_taken_or_one_must_be_named() -> None:
    names = ["de/train.jsonl", "en/train.jsonl"]
    configs = [{"config_name": lang, "data_dir": lang} for lang in ("de", "en")]
    assert chosen(names, {"configs": configs}, config="en") == ["en/train.jsonl"]
    assert "config: wanted one of de, en; found null." in refusal(names, {"configs": configs})
    assert "no config 'fr'; there are de, en." in refusal(names, {"configs": configs}, config="fr")
    marked = [configs[0], configs[1] | {"default": True}]
    assert chosen(names, {"configs": marked}) == ["en/train.jsonl"]


def test_every_pattern_must_fit_something() -> None:
    names = ["a.jsonl", "b.jsonl"]
    message = refusal(names, files=["a.*", "c.*"])
    assert message == "no file fits c.*; there are a.jsonl, b.jsonl."
