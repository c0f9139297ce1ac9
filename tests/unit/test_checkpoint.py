"""A killed run continues from its newest whole checkpoint, in one process at a time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.full_disk import NEEDS, full_disk
from tuning.run.errors import UserError
from tuning.training.checkpoint import COMPLETE, STATE, TENSORS, CheckpointFolder

ROOT = Path(__file__).parents[2]
RUNS = Path("runs")
FINGERPRINT = "0123456789abcdef" * 4
NAME = "0123456789abcdef"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / RUNS


def tensors_at(step: int) -> dict[str, Tensor]:
    return {
        "model/weight": torch.arange(6.0).reshape(2, 3) / 7 + step,
        "optimizer/step": torch.tensor(step),
        "model/bias": torch.full((2,), step, dtype=torch.bfloat16),
        "rng": torch.arange(5, dtype=torch.uint8),
    }


def state_at(step: int) -> dict[str, Any]:
    return {"epoch": step / 3, "log": [{"loss": 0.1 + step}], "rng": [2**64, "é", None]}


def save(folder: CheckpointFolder, *steps: int, keep: tuple[int, ...] = ()) -> None:
    for step in steps:
        assert folder.save(step, tensors_at(step), state_at(step), keep=keep)


def check(folder: CheckpointFolder, step: int) -> None:
    """The newest checkpoint is the one of this step, to the bit."""
    found = folder.newest()
    assert found is not None
    assert found.step == step
    assert found.state == state_at(step)
    assert found.tensors.keys() == tensors_at(step).keys()
    for name, tensor in tensors_at(step).items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def write_checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    """Folders and files by the names that a checkpoint has, as an earlier process left them."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / TENSORS).write_text(f"weights of step {step}")
    if complete:
        (folder / COMPLETE).touch()
    return folder


def write_old_runs(runs: Path, *newest_first: str) -> None:
    """Runs with a checkpoint each, last used long ago."""
    for age, name in enumerate(newest_first, start=1):
        write_checkpoint(runs / name, 4)
        os.utime(runs / name, (10_000 - age, 10_000 - age))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


@contextmanager
def another_process(*lines: str) -> Iterator[subprocess.Popen[str]]:
    """Python that runs these lines, prints ``ready`` and waits."""
    program = [*lines, "print('ready', flush=True)", "input()"]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(program)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def hold(fingerprint: str) -> tuple[str, ...]:
    return (
        "from pathlib import Path",
        "from tuning.training.checkpoint import CheckpointFolder",
        f"held = CheckpointFolder(Path({str(RUNS)!r}), {fingerprint!r})",
    )


def test_a_configuration_has_a_folder_of_its_own(runs: Path) -> None:
    with (
        CheckpointFolder(RUNS, FINGERPRINT) as folder,
        CheckpointFolder(RUNS, "f" * 64) as other,
    ):
        assert folder.path == runs / "0123456789abcdef"
        assert other.path == runs / "ffffffffffffffff"
        assert folder.newest() is None


def test_a_checkpoint_comes_back_to_the_bit(runs: Path) -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 3)
        check(folder, 3)
    assert names(runs / NAME / "checkpoint-3") == [COMPLETE, STATE, TENSORS]
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        check(folder, 3)
        assert folder.load(3).state == state_at(3)


def test_the_same_checkpoint_has_the_same_bytes(runs: Path) -> None:
    with (
        CheckpointFolder(RUNS, FINGERPRINT) as folder,
        CheckpointFolder(RUNS, "f" * 64) as other,
    ):
        save(folder, 3)
        reordered = dict(sorted(tensors_at(3).items(), reverse=True))
        assert other.save(3, reordered, dict(reversed(state_at(3).items())))
        for name in (COMPLETE, STATE, TENSORS):
            one, two = (f.path / "checkpoint-3" / name for f in (folder, other))
            assert one.read_bytes() == two.read_bytes()


def test_the_newest_two_are_kept_by_number_and_those_asked_for() -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 2, 9, 10)
        assert names(folder.path) == ["checkpoint-10", "checkpoint-9"]
        save(folder, 11, 100, keep=(9,))
        assert names(folder.path) == ["checkpoint-100", "checkpoint-11", "checkpoint-9"]
        check(folder, 100)
        assert folder.load(9).state == state_at(9)
        save(folder, 101)
        assert names(folder.path) == ["checkpoint-100", "checkpoint-101"]


def test_a_step_that_is_saved_again_is_replaced() -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        assert folder.save(4, tensors_at(1), state_at(1))
        save(folder, 4)
        check(folder, 4)


def test_what_a_killed_writer_left_is_removed(runs: Path) -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 4)
    write_checkpoint(runs / NAME, 8, complete=False)
    (runs / NAME / "checkpoint-8").rename(runs / NAME / ".checkpoint-8.tmp")
    write_checkpoint(runs / NAME, 3, complete=False)  # half removed
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        assert names(folder.path) == ["checkpoint-4"]
        check(folder, 4)


KILLED_WRITERS = """
import os, signal, sys
from tuning.training.checkpoint import CheckpointFolder
from tests.unit.test_checkpoint import FINGERPRINT, RUNS, save

def write_until(call):
    def kill(event, _):
        nonlocal call
        if event in {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}:
            call -= 1
            if call == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    os.environ["DVC_ROOT"] += f"/{call}"
    folder = CheckpointFolder(RUNS, FINGERPRINT)
    save(folder, 3, 4)
    sys.addaudithook(kill)
    save(folder, 5)

for call in range(1, 100):
    writer = os.fork()
    if writer == 0:
        write_until(call)
        os._exit(0)
    if os.waitpid(writer, 0)[1] == 0:
        break
"""


def test_a_writer_killed_at_any_call_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL before each call that opens, renames or removes, until one writer comes through."""
    subprocess.run([sys.executable, "-c", KILLED_WRITERS], cwd=ROOT, check=True, timeout=120)
    roots = sorted(tmp_path.iterdir(), key=lambda root: int(root.name))
    newest = []
    for root in roots:
        monkeypatch.setenv("DVC_ROOT", str(root))
        with CheckpointFolder(RUNS, FINGERPRINT) as folder:
            step = 5 if (folder.path / "checkpoint-5").exists() else 4
            check(folder, step)
            assert not {f"checkpoint-{step}", "checkpoint-4"} - set(names(folder.path))
            newest.append(step)
    assert newest == sorted(newest)
    assert set(newest) == {4, 5}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda at: flip_bit(at / TENSORS), f"{TENSORS}: checksum differs"),
    "cut short": (lambda at: os.truncate(at / TENSORS, 100), f"{TENSORS}: checksum differs"),
    "another state": (lambda at: (at / STATE).write_text("{}"), f"{STATE}: checksum differs"),
    "no tensors": (lambda at: (at / TENSORS).unlink(), f"{TENSORS}: No such file or directory"),
    "an empty mark": (lambda at: (at / COMPLETE).write_text(""), "COMPLETE: not as it was written"),
    "a list": (lambda at: (at / COMPLETE).write_text("[]"), "COMPLETE: not as it was written"),
}


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = DAMAGES[damage]
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 8, 12)
        change(folder.path / "checkpoint-12")
        with pytest.raises(UserError, match="checkpoint-12 is damaged"):
            folder.load(12)
        check(folder, 8)
        line = f"train: checkpoint-12 is damaged ({message}): continuing from checkpoint-8\n"
        assert capsys.readouterr().err == line
        assert names(folder.path) == ["checkpoint-8"]
        check(folder, 8)
        assert capsys.readouterr().err == ""


def test_where_all_are_damaged_the_run_starts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 8, 12)
        for step in (8, 12):
            flip_bit(folder.path / f"checkpoint-{step}" / TENSORS)
        assert folder.newest() is None
        assert capsys.readouterr().err == (
            f"train: checkpoint-12 is damaged ({TENSORS}: checksum differs); "
            f"checkpoint-8 is damaged ({TENSORS}: checksum differs): starting anew\n"
        )
        assert names(folder.path) == []


@pytest.mark.parametrize("too_large", [TENSORS, STATE])
def test_a_disk_that_takes_no_more_costs_one_line(
    too_large: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, state = tensors_at(12), state_at(12)
    if too_large == TENSORS:
        tensors["large"] = torch.zeros(100_000)
    else:
        state["large"] = "x" * 400_000
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        save(folder, 4, 8)
        with full_disk(100_000):
            saved = folder.save(12, tensors, state)
        assert not saved
        assert re.fullmatch(
            rf"\ntrain: no checkpoint at step 12: {NEEDS} \({folder.path}\)\. Training goes on and "
            r"the checkpoints before it stay; free some space there\.\n",
            capsys.readouterr().err,
        )
        assert names(folder.path) == ["checkpoint-4", "checkpoint-8"]
        check(folder, 8)
        save(folder, 16)


def test_a_mistake_of_ours_is_no_full_disk() -> None:
    shared = torch.zeros(4)
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        with pytest.raises(RuntimeError, match="share memory"):
            folder.save(1, {"a": shared, "b": shared}, {})
        with pytest.raises(ValueError, match="not JSON compliant"):
            folder.save(1, {}, {"loss": float("nan")})


def test_one_process_at_a_time_holds_a_run_until_it_dies() -> None:
    with another_process(*hold(FINGERPRINT)) as holder:
        with pytest.raises(UserError, match="another process is training this configuration"):
            CheckpointFolder(RUNS, FINGERPRINT)
        with CheckpointFolder(RUNS, "f" * 64):
            pass  # another configuration is free
        holder.kill()
        holder.wait(timeout=60)
        with CheckpointFolder(RUNS, FINGERPRINT):
            pass


def test_a_second_process_removes_no_checkpoint_of_the_first(runs: Path) -> None:
    with another_process(*hold(FINGERPRINT)):
        half = write_checkpoint(runs / NAME, 4, complete=False)
        with pytest.raises(UserError):
            CheckpointFolder(RUNS, FINGERPRINT)
        assert half.exists()


def test_a_finished_run_leaves_nothing_and_two_unfinished_ones_stay(runs: Path) -> None:
    write_old_runs(runs, "new", "middle", "old")
    write_checkpoint(runs / NAME, 4)
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        folder.finish()
    assert names(runs) == ["middle", "new"]
    assert names(runs / "new") == ["checkpoint-4"]


def test_a_run_that_was_continued_is_no_longer_the_oldest(runs: Path) -> None:
    write_old_runs(runs, "new", "middle", "f" * 16)
    with CheckpointFolder(RUNS, "f" * 64):
        pass
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        folder.finish()
    assert names(runs) == ["f" * 16, "new"]


def test_finishing_leaves_a_run_that_is_in_use(runs: Path) -> None:
    in_use = "e" * 16
    with another_process(*hold(in_use)), CheckpointFolder(RUNS, FINGERPRINT) as folder:
        write_old_runs(runs, "new", "middle", "old", in_use)
        folder.finish()
        assert names(runs) == [in_use, "middle", "new"]
        assert names(runs / in_use) == ["checkpoint-4"]


def test_finishing_minds_no_stray_file_beside_the_runs(runs: Path) -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        (runs / ".DS_Store").touch()
        folder.finish()
    assert names(runs) == [".DS_Store"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_trainer_dies_with_its_parent_even_by_sigkill() -> None:
    """The pipe's end comes when the last process that can write to it is gone."""
    trainer = (
        "import time\n"
        "from tuning.run.process import die_with_parent\n"
        "die_with_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(20)"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {trainer!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=10)
        finally:
            process.kill()
