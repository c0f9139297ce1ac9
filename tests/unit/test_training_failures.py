"""Whatever stops a training, it says so in one message, publishes nothing and exits with a code.

``python -m stages.train`` in a small project, by the command that dvc.yaml has.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.families import small_model
from tests.full_disk import NEEDS, WHAT_TO_DO
from tests.warm_process import warm
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.checkpoint import COMPLETE, STATE, TENSORS

ROOT = Path(__file__).parents[2]
COMMAND = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["cmd"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
NUM_STEPS = 60


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    project: Path
    code: int
    output: str

    def published(self) -> dict[str, bytes]:
        """Results by path; a half-written one would be among them."""
        folders = (self.project / "models", self.project / "metrics")
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return {
            str(file.relative_to(self.project)): file.read_bytes()
            for file in files
            if "base" not in file.parts and file.name != "timing.json"
        }


def start(project: Path, python: str, limits: str = "true") -> subprocess.Popen[str]:
    """A trainer with its output in one pipe; ``limits`` is what the shell does before."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "WANDB_"))}
    return subprocess.Popen(
        ["sh", "-c", f'{limits} && exec "$@"', "sh", python, *shlex.split(COMMAND)[2:]],
        cwd=project,
        env=inherited | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(project: Path, process: subprocess.Popen[str]) -> Outcome:
    with process:
        try:
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    return Outcome(project, process.returncode, output)


def change(project: Path, **values: Any) -> None:
    """Edit params.yaml's section ``train``, ``encoding.max_length`` or ``num_threads``."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    for name, value in values.items():
        sections = {"max_length": params["encoding"], "num_threads": params}
        sections.get(name, params["train"])[name] = value
    yaml.dump(params, project / "params.yaml")


def windows(*, num: int = 40, has_targets: bool = True) -> list[Window]:
    return [Window([10 + i, *range(20, 30), 9], [False] + [has_targets] * 11) for i in range(num)]


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``train`` reads, for sixty steps in three epochs with a checkpoint after each."""
    path: Path = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_base, path / "models/base")
    (path / "data/encoded").mkdir(parents=True)
    write_windows(path / "data/encoded", windows())
    prepare_tokenizer(tiny_base, path / "data/encoded/tokenizer", 2)
    (path / "requirements.lock").touch()
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["runtime"]["checkpoint_minutes"] = 1e-6
    yaml.dump(params, path / "params.yaml")
    change(
        path,
        max_length=16,
        learning_rate=1e-2,
        batch_size=2,
        gradient_accumulation_steps=1,
        epochs=3,
        mixed_precision="no",
        torch_compile=False,
        num_threads=1,
    )
    return path


def few_rows(project: Path) -> None:
    write_windows(project / "data/encoded", windows(num=1))


def broken_weight(value: float) -> Callable[[Path], None]:
    def break_weight(project: Path) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(project / "models/base")
        model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = value
        model.save_pretrained(project / "models/base")

    return break_weight


def long_rows(project: Path) -> None:
    """Of a model that has as many positions."""
    base = project / "models/base"
    config = AutoConfig.from_pretrained(base, n_positions=100_000)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    change(project, max_length=100_000)


def rewrite(file: str, **settings: Any) -> Callable[[Path], None]:
    """Change a base model's settings."""

    def change_settings(project: Path) -> None:
        path = project / "models/base" / file
        path.write_text(json.dumps(json.loads(path.read_bytes()) | settings), encoding="utf-8")

    return change_settings


def other_layers(project: Path) -> None:
    """Give the base model layers that read a row from left to right, whatever a mask says."""
    base = project / "models/base"
    num_tokens = AutoConfig.from_pretrained(base).vocab_size
    small_model("lfm2", vocab_size=num_tokens).save_pretrained(base)
    change(project, max_length=32)  # room for two windows


@dataclass(frozen=True)
class Case:
    """A project that is changed, a trainer that is limited, and a pattern of what is said."""

    change: Callable[[Path], object]
    message: str
    limits: str = "true"
    succeeds: bool = False


CASES = {
    "nothing wrong": Case(lambda project: None, "", succeeds=True),
    "a disk too full for checkpoints": Case(
        lambda project: None,
        f"train: no checkpoint at step 1: {NEEDS}",
        limits="ulimit -f 200",  # of 512 bytes
        succeeds=True,
    ),
    "a disk too full for the result": Case(
        lambda project: None,
        rf"\ntrain: {NEEDS} \(models/\.trained\.tmp\)\. {re.escape(WHAT_TO_DO)}\n",
        limits="ulimit -f 20",
    ),
    "fewer rows than a batch": Case(few_rows, "11 target tokens in 1 rows", succeeds=True),
    "a loss that is not a number": Case(
        broken_weight(math.nan), "is not a number, as if weights were damaged"
    ),
    "a loss that grows beyond bounds": Case(
        lambda project: change(project, learning_rate=0.5, weight_decay=1e20),
        "the loss is nan",
    ),
    "nothing to train": Case(
        lambda project: write_windows(project / "data/encoded", windows(has_targets=False)),
        "nothing to train: no window in data/encoded has a target token",
    ),
    "too little memory": Case(
        long_rows,
        "train: out of memory. Lower encoding.max_length",
        limits="ulimit -v 4000000",  # of 1024 bytes
    ),
    "a base whose way to generate transformers refuses to save": Case(
        rewrite("generation_config.json", do_sample=False, temperature=0.6, top_p=0.9),
        "",
        succeeds=True,
    ),
    "a base whose configuration transformers cannot save": Case(
        rewrite("config.json", validate=3),
        "train: model.name: what is trained could not be saved",
    ),
    "a base whose layers do not keep texts in one row apart": Case(
        other_layers,
        "train: lfm2 models read a row from left to right whatever a mask hides",
        succeeds=True,
    ),
    "rows longer than the model's positions": Case(
        lambda project: change(project, max_length=1025),
        "train: encoding.max_length: this model has only 1024 positions; set it to 1024",
    ),
}


@pytest.fixture(scope="module")
def outcomes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All cases, two at a time."""

    def run(name: str) -> Outcome:
        case = CASES[name]
        path = tmp_path_factory.mktemp("case") / "project"
        shutil.copytree(project, path)
        case.change(path)
        return wait(path, start(path, warm("python"), case.limits))

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_each_failure_is_one_message(outcomes: dict[str, Outcome], name: str) -> None:
    case, outcome = CASES[name], outcomes[name]
    assert re.search(case.message, outcome.output)
    assert "Traceback" not in outcome.output
    assert outcome.code == (0 if case.succeeds else 1), outcome.output
    assert bool(outcome.published()) == case.succeeds


def test_a_warm_start_is_as_good_as_a_real_one(
    project: Path, outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    """A fork of what has loaded before says and leaves the same, to the byte."""
    path = tmp_path / "project"
    shutil.copytree(project, path)
    real, forked = wait(path, start(path, sys.executable)), outcomes["nothing wrong"]
    assert (real.code, in_words(real)) == (forked.code, in_words(forked))
    assert real.published() == forked.published()


def in_words(outcome: Outcome) -> list[str]:
    """Its output without what the clock decides."""
    return [line for line in outcome.output.splitlines() if line.strip() and "step" not in line]


def test_what_could_not_be_saved_is_told_before_the_first_step(
    outcomes: dict[str, Outcome],
) -> None:
    outcome = outcomes["a base whose configuration transformers cannot save"]
    assert "target tokens in" not in outcome.output
    assert not checkpoints(outcome.project)


def test_such_a_base_is_trained_a_window_a_row(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["a base whose layers do not keep texts in one row apart"]
    figures = json.loads(outcome.published()["metrics/train.json"])
    assert (figures["packing"], figures["num_rows"]) == (False, len(windows()))
    usual = json.loads(outcomes["nothing wrong"].published()["metrics/train.json"])
    assert usual["packing"]


def test_the_base_s_way_to_generate_is_published_as_it_is(outcomes: dict[str, Outcome]) -> None:
    usual = outcomes["nothing wrong"].published()
    published = outcomes["a base whose way to generate transformers refuses to save"].published()
    name = "models/trained/generation_config.json"
    own = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    assert json.loads(published.pop(name)) == json.loads(usual.pop(name)) | own
    assert published == usual


def test_what_fails_without_harm_changes_no_byte(outcomes: dict[str, Outcome]) -> None:
    without_checkpoints = outcomes["a disk too full for checkpoints"]
    assert without_checkpoints.output.count("train: no checkpoint at step") == NUM_STEPS
    assert without_checkpoints.published() == outcomes["nothing wrong"].published()


@pytest.fixture(scope="module")
def interrupted(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Outcome, int]:
    """A trainer that finds params.yaml edited, one that came in between, and the last checkpoint.

    The first is held still after its second checkpoint, until the other has ended.
    """
    path = tmp_path_factory.mktemp("interrupted") / "project"
    shutil.copytree(project, path)
    first = start(path, sys.executable)
    while len(checkpoints(path)) < 2:
        assert first.poll() is None
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)
    second = wait(path, start(path, warm("python")))
    change(path, learning_rate=1e-3)
    os.kill(first.pid, signal.SIGCONT)
    edited = wait(path, first)
    change(path, learning_rate=1e-2)
    return edited, second, max(checkpoints(path))


def checkpoints(project: Path) -> list[int]:
    """Steps that have one."""
    folders = project.glob(".checkpoints/train/*/checkpoint-*")
    return [int(folder.name.removeprefix("checkpoint-")) for folder in folders]


def test_a_second_trainer_refuses(interrupted: tuple[Outcome, Outcome, int]) -> None:
    _, second, _ = interrupted
    assert "\ntrain: another process is training this configuration" in second.output
    assert "Traceback" not in second.output
    assert second.code == 1


def test_an_edit_of_params_yaml_publishes_nothing(
    interrupted: tuple[Outcome, Outcome, int],
) -> None:
    edited, _, last = interrupted
    assert "\ntrain: changed while this stage ran: parameter train. Nothing" in edited.output
    assert "Traceback" not in edited.output
    assert edited.code == 1
    assert edited.published() == {}
    assert last == NUM_STEPS


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    interrupted: tuple[Outcome, Outcome, int], outcomes: dict[str, Outcome]
) -> None:
    """The edit undone, the run continues; the end is the same, to the byte."""
    edited, _, last = interrupted
    (tensors,) = edited.project.glob(f".checkpoints/train/*/checkpoint-{last}/{TENSORS}")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    outcome = wait(edited.project, start(edited.project, warm("python")))
    assert (
        f"\ntrain: checkpoint-{last} is damaged ({TENSORS}: checksum differs): "
        f"continuing from checkpoint-{last - 1}\n" in outcome.output
    )
    assert outcome.code == 0
    assert outcome.published() == outcomes["nothing wrong"].published()
    assert checkpoints(edited.project) == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a file's name")
def test_no_power_cut_takes_a_step_back(project: Path, tmp_path: Path) -> None:
    """At each moment at which something is deleted, what replaces it is on the disk."""
    path, log = tmp_path / "project", tmp_path / "log"
    shutil.copytree(project, path)
    change(path, epochs=1)
    command = [sys.executable, "-m", "tests.power_cut", str(path), str(log)]
    run = subprocess.run(
        [*command, *shlex.split(COMMAND)[3:]],
        cwd=path,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    cuts = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    results = Outcome(path, 0, "").published()
    published = {name: hashlib.sha256(content).hexdigest() for name, content in results.items()}
    steps = [math.inf if published.items() <= cut.items() else newest_step(cut) for cut in cuts]
    assert steps == sorted(steps)
    assert {*range(1, NUM_STEPS // 3 + 1), math.inf} <= {*steps}


def newest_step(held: dict[str, str]) -> int:
    """The step of the newest whole checkpoint among files by their SHA-256."""
    newest = 0
    for name, sha256 in held.items():
        folder = Path(name).parent
        hashes = {file: held.get(str(folder / file), "") for file in (STATE, TENSORS)}
        complete = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        if Path(name).name == COMPLETE and sha256 == complete and folder.name[0] != ".":
            newest = max(newest, int(folder.name.removeprefix("checkpoint-")))
    return newest
