"""The real wandb client: what a stage logs is on disk, readable by wandb, and costs no training.

Each run is in a process of its own, as in a stage: wandb reads the environment once per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_wandb import loopback_wandb

REPOSITORY = Path(__file__).parents[2]
CLOSED_SERVER = "http://127.0.0.1:9"
API_KEY = "0123456789abcdef0123456789abcdef01234567"

START = "from tuning.tracking import start_run\n"

LOG_A_TRAINING = (
    START
    + """
config = {"seed": 1337, "train": {"learning_rate": 5e-5, "packing": True}}
with start_run(job_type="train", config=config, fingerprint="c0ffee11" * 8) as run:
    for step in (10, 20, 30):
        run.log({"loss": 30 / step, "learning_rate": 1e-5 * step}, step=step)
    rows = [["base", "héllo", 1], ["tuned", "", 2]]
    run.log_samples("samples", ["model", "reply", "length"], rows)
    run.summarise({"base": {"perplexity": 35.5}, "tuned": {"perplexity": 30.25}, "num_rows": 7})
print(run.run_id)
"""
)


def run_script(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a stage is run: in ``folder``, with no wandb account and no terminal."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "DVC_"))}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**keep, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def run_folders(folder: Path) -> list[Path]:
    """The runs under ``folder``, oldest first."""
    return sorted(path for path in (folder / "wandb").glob("*run-*") if not path.is_symlink())


@cache
def read_back(run_folder: Path, *options: str) -> list[Any]:
    """What wandb itself reads from an ended run's transaction log, one JSON value per record."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options]
    result = subprocess.run(
        [*command, str(run_folder)], capture_output=True, text=True, check=True, cwd=run_folder
    )
    if options:
        return [json.loads(result.stdout)]
    return [json.loads(line) for line in result.stdout.splitlines()]


def the_run_in(folder: Path) -> dict[str, Any]:
    """The one run under ``folder``, as wandb sums it up."""
    (run_folder,) = run_folders(folder)
    (summary,) = read_back(run_folder, "--summary")
    assert isinstance(summary, dict)
    return summary


def history_of(run_folder: Path) -> list[dict[str, Any]]:
    """The rows that were logged, without wandb's own columns except ``_step``."""
    rows = [r["history"]["item"] for r in read_back(run_folder) if r["type"] == "history"]
    ours = ("_step", "loss", "learning_rate", "samples.path")
    return [{key: row[key] for key in ours if key in row} for row in rows]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a user who has set nothing has logged a training, and what was said; to be read."""
    folder: Path = tmp_path_factory.mktemp("logged")
    result = run_script(LOG_A_TRAINING, folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


def test_what_was_logged_is_read_back_by_wandb(tmp_path: Path) -> None:
    names = {"DVC_EXP_NAME": "tidy-fox", "DVC_EXP_BASELINE_REV": "c0ffee" + "0" * 34}
    result = run_script(LOG_A_TRAINING, tmp_path, **names)
    assert result.returncode == 0, result.stderr

    run = the_run_in(tmp_path)
    (run_folder,) = run_folders(tmp_path)
    assert run["state"] == "finished"
    assert run["project"] == "dialogue-tuning"
    assert run["run_id"] == result.stdout.splitlines()[-1]
    assert run["name"] == run["config"]["dvc_exp_name"] == "tidy-fox"
    assert run["config"]["dvc_exp_baseline_rev"] == names["DVC_EXP_BASELINE_REV"]
    assert run_record(run_folder)["run_group"] == names["DVC_EXP_BASELINE_REV"]
    assert run["config"]["seed"] == 1337
    assert run["config"]["train"] == {"learning_rate": 5e-5, "packing": True}

    rows = history_of(run_folder)
    table_path = rows[-1].pop("samples.path")
    assert rows == [
        {"_step": 10, "loss": 3.0, "learning_rate": 1e-5 * 10},
        {"_step": 20, "loss": 1.5, "learning_rate": 1e-5 * 20},
        {"_step": 30, "loss": 1.0, "learning_rate": 1e-5 * 30},
    ]
    table = json.loads((run_folder / "files" / table_path).read_text("utf-8"))
    assert table == {
        "columns": ["model", "reply", "length"],
        "data": [["base", "héllo", 1], ["tuned", "", 2]],
    }

    summary = run["summary"]
    assert summary["base/perplexity"] == 35.5
    assert summary["tuned/perplexity"] == 30.25
    assert summary["num_rows"] == 7

    (start,) = [r["run"] for r in read_back(run_folder) if r["type"] == "run"]
    assert start["run_group"] == names["DVC_EXP_BASELINE_REV"]
    assert start["job_type"] == "train"


def test_nothing_but_what_was_logged_is_kept(logged: tuple[Path, str]) -> None:
    folder, _ = logged
    (run_folder,) = run_folders(folder)
    assert [p.parent.name for p in (run_folder / "files").rglob("*") if p.is_file()] == ["table"]
    (start,) = [r["run"] for r in read_back(run_folder) if r["type"] == "run"]
    assert start["host"] == "-"
    assert "git" not in start
    assert not any(path.is_file() for path in (folder / "home").rglob("*"))


def run_record(run_folder: Path) -> dict[str, Any]:
    """What wandb was told when the run began."""
    record = next(r["run"] for r in read_back(run_folder) if r["type"] == "run")
    assert isinstance(record, dict)
    return record


def test_a_run_of_no_experiment_is_named_by_its_fingerprint_and_grouped_by_the_commit(
    tmp_path: Path,
) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    commit = [*git, "commit", "--quiet", "--allow-empty", "--message", "state"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert run_script(LOG_A_TRAINING, tmp_path).returncode == 0
    record = run_record(run_folders(tmp_path)[0])
    assert record["display_name"] == "repro-c0ffee11"
    assert record["run_group"] == head


def test_a_training_that_was_killed_goes_on_in_its_run(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
{START}
file = Path("run_id")
with start_run(job_type="train", config={{}}, fingerprint="f", id_file=file) as run:
    print(run.run_id)
    run.log({{"loss": 1.0}}, step=int(os.environ["STEP"]))
"""
    first, second = (
        run_script(script, tmp_path, STEP=step).stdout.splitlines()[-1] for step in ("1", "2")
    )
    assert first == second == (tmp_path / "run_id").read_text()
    assert [history_of(folder) for folder in run_folders(tmp_path)] == [
        [{"_step": 1, "loss": 1.0}],
        [{"_step": 2, "loss": 1.0}],
    ]


def test_evaluation_continues_the_run_of_the_training(tmp_path: Path) -> None:
    trained = run_script(LOG_A_TRAINING, tmp_path).stdout.splitlines()[-1]
    script = (
        START
        + f"""
config = {{"eval": {{"max_turns": 4}}}}
with start_run(job_type="eval", config=config, fingerprint="f", run_id={trained!r}) as run:
    run.log({{"loss": 0.5}}, step=31)
assert run.run_id == {trained!r}
"""
    )
    result = run_script(script, tmp_path)
    assert result.returncode == 0, result.stderr
    starts = [run_record(folder) for folder in run_folders(tmp_path)]
    assert [start["run_id"] for start in starts] == [trained, trained]
    assert [start.get("resume", False) for start in starts] == [False, True]
    assert [start.get("job_type") for start in starts] == ["train", None]
    assert "display_name" not in starts[1], "a continued run keeps its name"
    assert history_of(run_folders(tmp_path)[1]) == [{"_step": 31, "loss": 0.5}]


def test_offline_runs_are_synced_to_one_run(tmp_path: Path) -> None:
    """Training, the rest of it after a kill, and the evaluation: three folders, one id."""
    script = f"""
import os
from pathlib import Path
{START}
settings = {{"config": {{}}, "fingerprint": "c0ffee11", "id_file": Path("run_id")}}
with start_run(job_type=os.environ["JOB"], **settings) as run:
    step = int(os.environ["STEP"])
    run.log({{"loss": 1.0 / step}}, step=step)
    run.summarise({{os.environ["JOB"]: {{"at": step}}}})
"""
    for job, step in (("train", "1"), ("train", "2"), ("eval", "3")):
        result = run_script(script, tmp_path, JOB=job, STEP=step)
        assert result.returncode == 0
    run_id = (tmp_path / "run_id").read_text()
    command = f"wandb sync wandb/offline-run-*-{run_id}"
    assert result.stdout == f"W&B: offline; to upload this run: {command}\n"
    assert len(run_folders(tmp_path)) == 3
    with loopback_wandb() as server:
        variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
        code = f"import subprocess as s; s.run({command!r}, shell=True, check=True)"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        result = run_script(code, tmp_path, PATH=path, **variables)
        assert result.returncode == 0, result.stderr
    assert {run["name"] for run in server.runs} == {run_id} == server.history.keys()
    assert server.runs[0]["displayName"] == "repro-c0ffee11"
    rows = [(row["_step"], row["loss"]) for row in server.history[run_id] if "loss" in row]
    assert rows == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    summary = server.summaries[run_id]
    assert (summary["eval/at"], summary["loss"]) == (3, 1 / 3)
    assert "train/at" not in summary, "the last folder's replaces the others'"


def test_offline_without_a_word_from_the_user(logged: tuple[Path, str]) -> None:
    folder, output = logged
    (run_folder,) = run_folders(folder)
    said, run_id = output.splitlines()
    assert said == f"W&B: offline; to upload this run: wandb sync wandb/offline-run-*-{run_id}"
    assert run_folder.name.startswith("offline-run-") and run_folder.name.endswith(run_id)


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    result = run_script(LOG_A_TRAINING, tmp_path, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: disabled\n")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not any((tmp_path / "home").iterdir())


def test_an_unknown_mode_is_the_users_error(tmp_path: Path) -> None:
    result = run_script(LOG_A_TRAINING, tmp_path, WANDB_MODE="onlin")
    assert result.returncode == 1
    assert "UserError: WANDB_MODE is 'onlin'; wanted online, offline" in result.stderr


def test_online_without_a_key_is_offline_and_says_so(tmp_path: Path) -> None:
    result = run_script(LOG_A_TRAINING, tmp_path, WANDB_MODE="online")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("W&B: offline (online needs an API key: WANDB_API_KEY")
    assert the_run_in(tmp_path)["summary"]["num_rows"] == 7


def test_an_unreachable_server_makes_the_run_offline_and_learns_no_key(tmp_path: Path) -> None:
    variables = {"WANDB_BASE_URL": CLOSED_SERVER, "WANDB_API_KEY": API_KEY}
    result = run_script(LOG_A_TRAINING, tmp_path, WANDB_MODE="online", **variables)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"W&B: offline (no log-in at {CLOSED_SERVER}")
    assert the_run_in(tmp_path)["summary"]["num_rows"] == 7
    assert API_KEY not in result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if API_KEY.encode() in path.read_bytes()]


def test_a_queued_experiment_writes_to_the_parent_repository(tmp_path: Path) -> None:
    parent, temporary = tmp_path / "parent", tmp_path / "temporary"
    parent.mkdir()
    temporary.mkdir()
    run_script(LOG_A_TRAINING, temporary, DVC_ROOT=str(parent))
    assert not (temporary / "wandb").exists()
    assert the_run_in(parent)["state"] == "finished"


def test_a_failed_stage_is_a_failed_run_and_keeps_its_exit_code(tmp_path: Path) -> None:
    script = f"""import sys
{START}
with start_run(job_type="train", config={{}}, fingerprint="f") as run:
    run.log({{"loss": 1.0}})
    sys.exit(143)
"""
    assert run_script(script, tmp_path).returncode == 143
    run = the_run_in(tmp_path)
    assert (run["state"], run["exit_code"]) == ("failed", 1)


def test_ctrl_c_waits_for_nothing_of_wandb(tmp_path: Path) -> None:
    """Its process, stopped here until it is killed, would be waited for and its end be told."""
    script = f"""import os, pathlib, signal, subprocess
from tuning.run.process import run_stage
{START}
def main():
    with start_run(job_type="train", config={{}}, fingerprint="f") as run:
        run.log({{"loss": 1.0}})
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            if f"PPid:\\t{{os.getpid()}}\\n" in status.read_text():
                os.kill(int(status.parent.name), signal.SIGSTOP)
                subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {{status.parent.name}}"])
        raise KeyboardInterrupt

run_stage("train", main)
"""
    result = run_script(script, tmp_path)
    assert result.returncode == 130
    assert result.stderr == "\ntrain: interrupted; run the same command again to continue.\n"
    assert len(result.stdout.splitlines()) == 1  # where the run is


def test_a_death_of_wandb_does_not_stop_the_training(tmp_path: Path) -> None:
    script = (
        START
        + """
import os, pathlib, signal, time

with start_run(job_type="train", config={}, fingerprint="f") as run:
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        if f"PPid:\\t{os.getpid()}\\n" in status.read_text():
            os.kill(int(status.parent.name), signal.SIGKILL)
    time.sleep(0.5)
    for step in range(3):
        run.log({"loss": 1.0}, step=step)
    run.log_samples("samples", ["reply"], [["hello"]])
    run.summarise({"loss": 1.0})
print("trained")
"""
    )
    result = run_script(script, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "trained"
    assert result.stdout.count("results are safe") == 1


def test_random_numbers_are_as_without_wandb(tmp_path: Path) -> None:
    script = f"""import random, numpy, torch
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
def states():
    return str((random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist()))
before = states()
{LOG_A_TRAINING}
assert states() == before
"""
    result = run_script(script, tmp_path)
    assert result.returncode == 0, result.stderr
