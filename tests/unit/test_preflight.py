"""What preflight finds before a run, in a project of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tools.preflight.files import check_files
from tools.preflight.finding import Finding
from tools.preflight.last_run import check_loss_on, check_windows
from tools.preflight.machine import check_packages
from tools.preflight.parameters import check_params, runs_of
from tools.preflight.refusals import check_stages
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.run.params import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with the pipeline's declaration and parameters, all of it committed."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "state")
    return tmp_path


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def test_what_dvc_would_take_is_taken(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    values = ["train.learning_rate=1e-4,3e-4", "seed=1,2,3", "params.yaml:score.profile=smoke"]
    assert list(check_params(values)) == []
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["train.learning_rte=1e-4"], "train.learning_rte: unknown key; did you mean learning_rat"),
        (["train.batch_size=4,0"], "-S train.batch_size=0: params.yaml has 1 fault(s):\n  train.b"),
        (["train.packing=maybe"], "train.packing: found 'maybe' (str)"),
        (["seeds=3"], "seeds: unknown key; did you mean seed?"),
        (["+train.momentum=0.9"], "train.momentum: unknown key"),
        (["model.name=openai-community/gpt2-medium"], "model.revision: found None for openai-c"),
        (["model.revision=abc"], "model.revision: found 'abc' for 'smollm2-135m'; wanted null"),
        (["model.name=no-such-folder/of/mine"], "model.name: found 'no-such-folder/of/mine', wh"),
        (["data.hub.a={name: a/b, revision: main}"], "data.hub.a.revision: found 'main' for a/b"),
        (["seed"], "-S: Error parsing override 'seed'; wanted section.key=value."),
        (["other.yaml:seed=1"], "-S: no stage reads other.yaml; wanted keys of params.yaml."),
    ],
)
def test_what_would_fail_later_is_an_error_now(
    project: Path, values: list[str], message: str
) -> None:
    (finding,) = check_params(values)
    assert finding.kind == "error"
    assert message in finding.text


def test_a_key_that_runs_no_stage_is_named(project: Path) -> None:
    values = ["runtime.checkpoint_minutes=3", "score.profile=smoke"]
    text = "-S runtime.checkpoint_minutes: it changes no result, so no stage runs for it."
    assert list(check_params(values)) == [Finding("warning", text)]


ENCODED = {
    "max_length_enough": 3000,
    "num_targets_turn_before_cut": 5,
    "num_targets_turn_before_lost": 25,
    "num_tokens": {"trained": 1000},
}


def encoded(project: Path, **change: Any) -> None:
    """Leave what an encode with the parameters of now would leave."""
    metrics = project / "metrics/encode.json"
    metrics.parent.mkdir(exist_ok=True)
    metrics.write_text(json.dumps(ENCODED | change))
    values = load_params().model_dump()
    params = {
        "fetch": {"data.hub": values["data"]["hub"], "model": values["model"]},
        "prep": {"data": values["data"]},
        "encode": {"data.on_invalid": "error", "encoding": values["encoding"]},
    }
    md5 = hashlib.md5(metrics.read_bytes(), usedforsecurity=False).hexdigest()
    outs = [{"path": "metrics/encode.json", "hash": "md5", "md5": md5}]
    stages = {name: {"params": {"params.yaml": one}, "outs": outs} for name, one in params.items()}
    with (project / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


HUB = "data.hub.a={name: a/b, revision: 8049631c405ae6576f93f445c6b8166f76f5505a}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], ""),
        (["data.path=mine.json"], "mine.json not found; data.path names a file of dialogues"),
        (["data.path=empty"], "empty is a folder with no data file in it"),
        (["data.sources={a: {files: [b.json]}}"], "data.sources: their files are sought below"),
        (["data.path=full", "data.sources={a: {files: [b.json]}}"], "no data file below full fits"),
        (["data.path=full", "data.sources={a: {files: [a.json]}}"], ""),
        (["data.path=full", HUB], "it is fetched to data/raw/hub/a, but data.path is full, so"),
        (["data.path=data/raw", "data.sources={a: {files: [hub/a/**]}}", HUB], ""),
        (["data.phone_region=XX"], "data.phone_region: found 'XX', which is no region"),
        (["score.also=[english,nothing]"], "score.also: evaluation_sets/nothing.jsonl is not"),
        (["encoding.template=chat"], "encoding.template is chat, and the base model has no"),
        (["encoding.template_settings={a: 1}"], "encoding.template_settings: a would be"),
        (["encoding.template=speakers", "seed=1,2"], ""),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_in_its_words(
    project: Path, tiny_base: Path, values: list[str], message: str
) -> None:
    encoded(project)
    (project / "metrics/prep.json").write_text(json.dumps({"num_turns_by_role": {}}))
    for name in ("data/raw/chitchat.json", "full/a.json"):
        (project / name).parent.mkdir(exist_ok=True, parents=True)
        (project / name).write_text("[]")
    (project / "empty").mkdir()
    shutil.copytree(ROOT / "evaluation_sets", project / "evaluation_sets")
    findings = list(check_stages(runs_of(values), tiny_base))
    assert [finding.kind for finding in findings] == ["error"] * bool(message)
    for finding in findings:
        assert message in finding.text


def test_what_is_not_here_yet_is_not_refused(project: Path) -> None:
    shutil.copytree(ROOT / "evaluation_sets", project / "evaluation_sets")
    assert list(check_stages(runs_of(["encoding.template=chat"]), project / "models/base")) == []


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ([], ["3% of the target tokens do not see the whole turn before them in windows of 512 "]),
        (["train.epochs=1", "seed=1,2"], ["3% of the target tokens do not see"]),
        (["encoding.max_length=256,3000"], ["more than 2 % of the target tokens are in dialogues"]),
        (["encoding.max_length=512,2999"], ["3% of", "more than 2,999 tokens"]),
        (["encoding.max_length=3000"], []),
        (["encoding.min_context=8"], ["more than 512 tokens"]),
        (["encoding.loss_on=all"], []),
        (["data.min_turns=3", "encoding.max_length=256"], []),
        (["model.name=elsewhere"], []),
    ],
)
def test_windows_too_short_for_the_turn_before_are_said_as_encode_counted_them(
    project: Path, values: list[str], messages: list[str]
) -> None:
    assert list(check_windows(runs_of(values))) == [], "nothing is encoded yet"
    encoded(project)
    findings = list(check_windows(runs_of(values)))
    assert [finding.kind for finding in findings] == ["warning"] * len(messages)
    for finding, message in zip(findings, messages, strict=True):
        assert message in finding.text and "encoding.max_length: 3000 would" in finding.text


def test_windows_that_are_long_enough_or_another_runs_ledger_say_nothing(project: Path) -> None:
    encoded(project, num_targets_turn_before_lost=15)
    assert list(check_windows(runs_of([]))) == []
    encoded(project)
    (project / "metrics/encode.json").write_text(json.dumps(ENCODED | {"max_length_enough": 9}))
    assert list(check_windows(runs_of([]))) == []
    encoded(project)
    (project / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n>>>>>>> other\n")
    assert list(check_windows(runs_of([]))) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["encoding.loss_on=ann,bert"], ["bert"]),
        (["encoding.loss_on=[ann,bert,all]"], ["bert"]),
        (["encoding.loss_on=assistant"], ["assistant"]),
        (["encoding.loss_on=auto,last,all,user"], []),
        (["encoding.loss_on=bert", "data.min_turns=3"], []),
    ],
)
def test_a_speaker_to_train_whom_no_dialogue_has_is_an_error(
    project: Path, values: list[str], names: list[str]
) -> None:
    """By the last prep's dialogues, if it ran with the same parameters."""
    assert list(check_loss_on(runs_of(values))) == []
    encoded(project)
    (project / "data/prepared").mkdir(parents=True)
    turns = (Turn("ann", "hi"), Turn("guest", "Hello.", role="user"))
    line = to_line(Dialogue("1", turns))
    (project / "data/prepared/train.jsonl").write_text(f"{line}\n")
    findings = list(check_loss_on(runs_of(values)))
    assert [finding.kind for finding in findings] == ["error"] * len(names)
    for finding, name in zip(findings, names, strict=True):
        assert f"encoding.loss_on: {name!r} trains no turn" in finding.text
        assert "(ann, guest, user, …)" in finding.text


def test_untracked_code_is_named_and_ignored_files_are_not(project: Path) -> None:
    assert list(check_files("data/raw/chitchat.json")) == []
    (project / ".gitignore").write_text("ignored.py\n")
    for name in ("new.py", "ignored.py", "notes.txt"):
        (project / name).write_text("")
    (finding,) = check_files("data/raw/chitchat.json")
    assert finding.kind == "warning"
    assert finding.text.endswith("without it: git add new.py")


def test_data_that_only_this_folder_has_is_an_error(project: Path) -> None:
    data = project / "mine" / "talks.json"
    data.parent.mkdir()
    data.write_text("[]")
    (finding,) = check_files("mine/talks.json")
    assert finding.kind == "error"
    assert "dvc add mine/talks.json" in finding.text
    (project / "mine.dvc").write_text("")  # its folder is DVC's
    assert [one.kind for one in check_files("mine/talks.json")] == ["warning"]  # and untracked
    git("add", "mine.dvc")
    assert list(check_files("mine/talks.json")) == []
    (project / "mine.dvc").unlink()
    git("add", "mine/talks.json", "mine.dvc")
    assert list(check_files("mine/talks.json")) == []


def test_a_package_that_eval_needs_is_asked_for_before_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.report.relevance.PACKAGE", "there_is_no_such_package")
    params = load_params()
    assert list(check_packages(params)) == []
    asked = params.model_copy(update={"eval": params.eval.model_copy(update={"relevance": True})})
    (finding,) = check_packages(asked)
    assert finding.kind == "error" and "pip install" in finding.text
