"""Kill a real ``dvc repro`` at any moment in any way: the next one ends with the same bytes.

A chain is one training that is killed four times, each time at another moment and in another way,
and compared at its end with one that nothing stopped. Moments are random, by a fixed seed: steps
are drawn from the part of the run that is named, and the kill follows up to 20 ms later. By default
there is one chain; ``KILLED_CHAINS=5`` makes the twenty kills, and
``pytest -s`` prints each with the step it came at.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_pipeline import CHANGES, ENVIRONMENT, Repository, copy_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

NUM_CHAINS = int(os.environ.get("KILLED_CHAINS", "1"))
STEPS_PER_EPOCH = 22
MORE_CHANGES: dict[str, dict[str, Any]] = {
    "data": {"max_dialogues": 9},
    "encoding": {"max_length": 128},
    "train": {"epochs": 3, "gradient_accumulation_steps": 3},
    "runtime": {"checkpoint_minutes": 1e-6},  # after every step
}
PLACES = (
    ("start-up", "epoch 1", "a write in epoch 2", "epoch 3"),
    ("epoch 1", "epoch 2", "a write in epoch 3", "publishing"),
)
WAYS = (
    ("SIGKILL", "dvc"),
    ("SIGINT", "group"),  # Ctrl-C
    ("SIGKILL", "trainer"),
    ("SIGTERM", "trainer"),
    ("SIGKILL", "group"),
    ("SIGTERM", "dvc"),
)
RESULTS = ("metrics/train.json", "metrics/train_log.csv", "dvc.lock")  # and models/trained


class Clone(Repository):
    """A clone in which everything before ``train`` has run."""

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command in a process group of its own, with its output in a file; killed at the end."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "WANDB_"))}
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # no forks
            "SHELL": "/bin/sh",  # some shells stay beside a command
            "WANDB_MODE": "offline",
        }
        with (
            self.output_file.open("wb") as output,
            subprocess.Popen(
                # Where the tests run in the background, Ctrl-C would be ignored here as well.
                ["env", "--default-signal=INT", *command],
                cwd=self.path,
                env=environment | ENVIRONMENT | own,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    @property
    def output_file(self) -> Path:
        return self.path.with_name("output.txt")

    def output(self) -> str:
        """What the last command has said, if it was one that ``start`` started."""
        if not self.output_file.exists():
            return ""
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    def trainers(self) -> list[int]:
        """Processes that train here, or in an experiment's copy of here."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is not ours
                if b"stages.train" in (process / "cmdline").read_bytes().split(b"\0"):
                    folder = (process / "cwd").readlink()
                    if folder.is_relative_to(self.path):
                        found.append(int(process.name))
        return found

    def last_step(self) -> int:
        """The newest checkpoint's, 0 without one."""
        checkpoints = self.path.glob(".checkpoints/train/*/checkpoint-*")
        return max((int(path.name.removeprefix("checkpoint-")) for path in checkpoints), default=0)

    def writes(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(self.path.glob(".checkpoints/train/*/.checkpoint-*.tmp"))

    def wait_for(self, condition: Callable[[], object], *, pause: float = 0.02) -> None:
        """Ask again after each pause, in seconds: looking through /proc takes milliseconds."""
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, self.output()[-3000:]
            time.sleep(pause)

    def results(self) -> dict[str, bytes]:
        """What a run of ``train`` leaves, by path."""
        model = sorted((self.path / "models/trained").iterdir())
        files = [*model, *(self.path / name for name in RESULTS)]
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files}

    def results_of(self, experiment: str) -> dict[str, bytes]:
        """The same of an experiment, by what git holds; dvc.lock has the weights' hash."""
        refs = self.run("git", "for-each-ref", "--format", "%(refname)", "refs/exps").stdout
        ref = next(ref for ref in refs.split() if ref.endswith(f"/{experiment}"))
        return {name: self.run("git", "show", f"{ref}:{name}").stdout.encode() for name in RESULTS}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone that the others are copies of; its last commit is made before ``train``."""
    path: Path = tmp_path_factory.mktemp("killed") / "my clone"
    copy_project(path, ["hello, how are you?", "I am fine. And you?"] * 50)
    clone = Clone(path)
    for changes in (CHANGES, MORE_CHANGES):
        for section, values in changes.items():
            clone.change(section, **values)
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.run("git", "config", "user.email", "test@localhost")
    clone.run("git", "config", "user.name", "test")
    clone.repro("encode")
    clone.commit()
    return path


@pytest.fixture
def clone(prepared: Path, tmp_path: Path) -> Clone:
    """A copy in which ``train`` has not run."""
    return copy_of(prepared, tmp_path)


def copy_of(prepared: Path, folder: Path) -> Clone:
    path = folder / "my clone"
    shutil.copytree(prepared, path, symlinks=True)
    return Clone(path)


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nothing stopped."""
    clone = copy_of(prepared, tmp_path_factory.mktemp("whole"))
    assert clone.repro("train") == ["train"]
    assert clone.json("metrics/train.json")["num_steps"] == 3 * STEPS_PER_EPOCH
    return clone.results()


def wait_for_moment(clone: Clone, place: str, moments: random.Random) -> None:
    """Return at a random moment in this part of the run."""
    clone.wait_for(clone.trainers)
    if place == "start-up":
        time.sleep(moments.uniform(0, 1.5))  # it imports torch for longer than that
    elif place == "publishing":
        clone.wait_for(lambda: any((clone.path / "models").glob("*trained*")), pause=0.002)
        time.sleep(moments.uniform(0, 0.02))
    else:
        epoch = int(place[-1])
        first = max(STEPS_PER_EPOCH * (epoch - 1), clone.last_step()) + 1
        step = moments.randint(first, STEPS_PER_EPOCH * epoch - 5)
        clone.wait_for(lambda: clone.last_step() >= step)
        if place.startswith("a write"):
            stop_in_a_write(clone)
        else:
            time.sleep(moments.uniform(0, 0.02))


def stop_in_a_write(clone: Clone) -> None:
    """Stop the trainer between the first byte of a checkpoint and its rename."""
    (trainer,) = clone.trainers()
    while True:
        clone.wait_for(clone.writes, pause=0.002)  # a write takes a few of these
        os.kill(trainer, signal.SIGSTOP)
        if clone.writes():
            return
        os.kill(trainer, signal.SIGCONT)


def kill(clone: Clone, process: subprocess.Popen[bytes], sent: str, to: str) -> int:
    """Return the exit code of dvc, once no process of the run is left."""
    if to == "group":
        os.killpg(process.pid, signal.Signals[sent])
    else:
        os.kill(clone.trainers()[0] if to == "trainer" else process.pid, signal.Signals[sent])
    code = process.wait(timeout=60)
    wait_for_the_end(clone)
    return code


def wait_for_the_end(clone: Clone) -> None:
    """An orphan may live on for as long as it imports; it makes no step."""
    reached = clone.last_step()
    while clone.trainers():
        assert clone.last_step() <= reached + 1, "an orphan goes on"
        time.sleep(0.01)


@pytest.mark.thorough
def test_killed_runs_end_with_the_same_bytes(
    prepared: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Two chains at a time, a core for each."""

    def check(chain: int) -> None:
        clone = copy_of(prepared, tmp_path / str(chain))
        kill_four_times(clone, chain)
        assert clone.results() == whole
        assert list(clone.path.glob(".checkpoints/train/*")) == []
        runs = {path.name.rpartition("-")[2] for path in clone.path.glob("wandb/offline-run-*")}
        assert runs == {clone.json("metrics/timing.json")["train"]["wandb_run_id"]}

    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in pool.map(check, range(NUM_CHAINS)):
            pass


def kill_four_times(clone: Clone, chain: int) -> None:
    """Leave a run that came to its end."""
    moments = random.Random(chain)
    lock = (clone.path / "dvc.lock").read_bytes()
    reached = 0
    for number, place in enumerate(PLACES[chain % 2], start=4 * chain):
        signal_name, to = WAYS[number % len(WAYS)]
        with clone.start("dvc", "repro", "train") as process:
            wait_for_moment(clone, place, moments)
            assert kill(clone, process, signal_name, to) != 0, clone.output()
        assert (clone.path / "dvc.lock").read_bytes() == lock, "a killed run was recorded"
        assert continued_from(clone) == reached
        assert clone.writes() or not place.startswith("a write")
        reached = clone.last_step()
        print(f"{number + 1:2} | {place} | {signal_name} to {to} | step {reached}")
    with clone.start("dvc", "repro", "train") as process:
        assert process.wait(timeout=120) == 0, clone.output()
    assert continued_from(clone) == reached


def continued_from(clone: Clone) -> int:
    """The step that the last run says it continued from, 0 for the beginning."""
    step = re.search(r"train: continuing from checkpoint-(\d+)", clone.output())
    return int(step[1]) if step else 0


@pytest.mark.thorough
def test_a_killed_experiment_ends_with_the_same_bytes(
    clone: Clone, whole: dict[str, bytes]
) -> None:
    """``--temp``: in a copy of the repository, which a new run does not find again."""
    command = ("dvc", "exp", "run", "--temp", "--name", "killed", "train")
    with clone.start(*command) as process:
        wait_for_moment(clone, "epoch 2", random.Random(100))
        assert kill(clone, process, "SIGKILL", "dvc") != 0
    reached = clone.last_step()
    with clone.start(*command) as process:
        assert process.wait(timeout=120) == 0, clone.output()
    assert continued_from(clone) == reached
    assert clone.results_of("killed") == {name: whole[name] for name in RESULTS}
    print(f"   | epoch 2 | SIGKILL to dvc, exp run --temp | step {reached} | same bytes")


@pytest.mark.thorough
def test_a_killed_experiment_in_the_workspace_is_repaired_and_ends_with_the_same_bytes(
    clone: Clone, whole: dict[str, bytes]
) -> None:
    (clone.path / "README.md").write_text("mine")
    head = clone.path / ".git/HEAD"
    with clone.start("dvc", "exp", "run", "train") as process:
        clone.wait_for(lambda: clone.last_step() > 2)
        os.killpg(process.pid, signal.SIGKILL)
    clone.wait_for(lambda: not clone.trainers())
    assert not head.read_text().startswith("ref: ")
    clone.run("python", "-m", "tools.repair")
    assert head.read_text() == "ref: refs/heads/main\n"
    reached = clone.last_step()
    said = clone.run("dvc", "exp", "run", "--name", "continued", "train").stdout
    assert f"train: continuing from checkpoint-{reached}" in said
    assert clone.results_of("continued") == {name: whole[name] for name in RESULTS}
    assert (clone.path / "README.md").read_text() == "mine"


@pytest.mark.thorough
def test_a_killed_experiment_of_the_queue_ends_with_the_same_bytes(
    clone: Clone, whole: dict[str, bytes]
) -> None:
    """The process that is killed is the dvc that the queue's worker has started for the task."""
    try:
        queue(clone, "killed")
        wait_for_moment(clone, "epoch 3", random.Random(200))
        dvc = int(Path(f"/proc/{clone.trainers()[0]}/stat").read_text().split()[3])
        os.kill(dvc, signal.SIGKILL)
        wait_for_the_end(clone)
        reached = clone.last_step()
        clone.wait_for(lambda: "Failed" in queue_status(clone), pause=1)
        queue(clone, "again")
        clone.wait_for(lambda: "Success" in queue_status(clone), pause=1)
        assert (
            f"continuing from checkpoint-{reached}"
            in clone.run("dvc", "queue", "logs", "again").stdout
        )
        assert clone.results_of("again") == {name: whole[name] for name in RESULTS}
    finally:
        clone.run("dvc", "queue", "stop", "--kill")
    print(f"   | epoch 3 | SIGKILL to dvc, queue | step {reached} | same bytes")


def queue(clone: Clone, name: str) -> None:
    clone.run("dvc", "exp", "run", "--queue", "--name", name, "train")
    start_worker(clone)


def start_worker(clone: Clone) -> None:
    with clone.start("dvc", "queue", "start") as process:  # its worker would hold a pipe open
        assert process.wait(timeout=60) == 0


def queue_status(clone: Clone) -> str:
    """What the queue says, once a worker is there for a task that waits: one may just have left."""
    status = clone.run("dvc", "queue", "status").stdout
    if "Queued" in status and "0 active, 0 idle" in status:
        start_worker(clone)
    return status
