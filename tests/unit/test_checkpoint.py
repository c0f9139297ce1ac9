"""A killed run continues from its newest whole checkpoint, in one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.training.checkpoint import COMPLETE, CheckpointFolder

ROOT = Path(__file__).parents[2]
RUNS = Path("runs")
FINGERPRINT = "0123456789abcdef" * 4
NAME = "0123456789abcdef"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / RUNS


def write_checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    """A checkpoint as an earlier process left it."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"weights of step {step}")
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
        "from stages.training.checkpoint import CheckpointFolder",
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


def test_an_incomplete_checkpoint_is_removed_and_never_chosen(runs: Path) -> None:
    whole = write_checkpoint(runs / NAME, 4)
    write_checkpoint(runs / NAME, 8, complete=False)
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        assert folder.newest() == whole
        assert names(folder.path) == ["checkpoint-4"]
    assert (whole / "model.safetensors").read_text() == "weights of step 4"


def test_a_checkpoint_that_is_being_written_is_not_chosen() -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        whole = write_checkpoint(folder.path, 4)
        write_checkpoint(folder.path, 8, complete=False)
        assert folder.newest() == whole


def test_the_newest_is_by_number() -> None:
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        for step in (9, 10, 2):
            write_checkpoint(folder.path, step, complete=False)
            folder.complete(step)
            assert (folder.path / f"checkpoint-{step}" / COMPLETE).exists()
    with CheckpointFolder(RUNS, FINGERPRINT) as folder:
        assert folder.newest() == folder.path / "checkpoint-10"


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
        "from stages.process import die_with_parent\n"
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
