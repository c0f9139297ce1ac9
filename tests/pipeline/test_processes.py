"""One training in several processes over loopback: the same results, one voice, no survivors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import Tensor

from tests.several_processes import Case, train
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.run.errors import UserError
from tuning.run.params import load_params
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.processes import Processes
from tuning.training.torchrun import TORCHRUN, run_in_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).parents[2]
TEXTS = ["Hello! How are you?", "I am fine, thank you. And you?", "Not much, just reading."] * 20
TOLERANCE = 1e-5
"""Of weights and losses in float32, whose sums the number of processes reorders."""

SMALL_TRAIN = load_params(ROOT / "params.yaml").train.model_dump() | {
    "learning_rate": 1e-2,
    "batch_size": 2,
    "gradient_accumulation_steps": 3,
    "epochs": 2,
    "eval_steps": 3,
    "mixed_precision": "no",
    "packing": False,
    "torch_compile": False,
}

# torchrun's store listens at all addresses and has no option for it.
ON_LOOPBACK = """
import runpy, socket, sys
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend

class Store(dist.TCPStore):
    def __init__(self, host, port, is_master=False, **options):
        if is_master:
            listener = socket.create_server(("127.0.0.1", port))
            port = listener.getsockname()[1]
            options["master_listen_fd"] = listener.detach()
        super().__init__("127.0.0.1", port, is_master=is_master, **options)

c10d_rendezvous_backend.TCPStore = Store
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(
    num_processes: int, module: str, *arguments: str, folder: Path, **environment: str
) -> subprocess.Popen[str]:
    """``python -m module`` in ``folder``, with TUNING_TORCHRUN for more than one process."""
    environment |= {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "PYTHONWARNINGS": "error,ignore::ResourceWarning",  # wandb leaves folders to be removed
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if num_processes > 1:
        options = f"--nproc-per-node {num_processes} --local-addr 127.0.0.1"
        environment[TORCHRUN] = options
    return subprocess.Popen(
        [sys.executable, "-c", ON_LOOPBACK, module, *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "WANDB_"))}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_data(
    folder: Path, *, num_rows: int, make_model: Callable[[Path, list[str]], None] = make_tiny_gpt2
) -> None:
    """``base``, and ``encoded`` with windows of many lengths."""
    make_model(folder / "base", TEXTS)
    prepare_tokenizer(folder / "base", folder / "encoded/tokenizer", 2)
    windows = [
        Window([i, *range(20, 24 + i % 9), 9], [False] + [True] * (5 + i % 9))
        for i in range(num_rows)
    ]
    for part in (folder / "encoded", folder / "encoded/validation"):
        part.mkdir(exist_ok=True)
        write_windows(part, windows)


# --- the same results -----------------------------------------------------------------------------

Trained = tuple[dict[str, Tensor], list[dict[str, float]]]
CASES: dict[str, dict[str, Any]] = {
    "eleven rows": {},
    "eleven rows, sharded": {"shard_model": True},
    "an untied head, recomputed activations, sharded": {
        "data": "llama",
        "shard_model": True,
        "gradient_checkpointing": True,
    },
    "two rows": {"data": "two rows"},
    "two rows, sharded": {"data": "two rows", "shard_model": True},
}


class Several:
    """All cases, trained in so many processes and in one."""

    def __init__(self, num_processes: int, data: Path) -> None:
        self.data = data
        self.folder = data / str(num_processes)
        self.folder.mkdir()
        self.cases = {name: self._case(name, **options) for name, options in CASES.items()}
        train(self.moved("moved", max_steps=2), Processes())
        several = self.cases | {"moved": self.moved("moved", max_steps=4, shard_model=True)}
        content = {name: dataclasses.asdict(case) for name, case in several.items()}
        (self.folder / "cases.json").write_text(json.dumps(content))

    def _case(
        self,
        name: str,
        *,
        data: str = "gpt2",
        shard_model: bool = False,
        **changes: object,
    ) -> Case:
        folder = self.data / data
        return Case(
            base=str(folder / "base"),
            tokenizer=str(folder / "encoded/tokenizer"),
            rows=str(folder / "encoded"),
            checkpoints=str(self.folder / "checkpoints" / name),
            train=SMALL_TRAIN | changes,
            shard_model=shard_model,
        )

    def moved(self, name: str, *, max_steps: int, shard_model: bool = False) -> Case:
        return self._case(
            name,
            shard_model=shard_model,
            lr_scheduler_type="constant",
            max_steps=max_steps,
            eval_steps=None,
        )

    def result(self, name: str) -> Trained:
        """What the processes left."""
        content = json.loads((self.folder / f"{name}.json").read_text())
        return load_file(self.folder / f"{name}.safetensors"), content["log"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Several]:
    """By number of processes, all in one start."""
    folder = tmp_path_factory.mktemp("several")
    write_data(folder / "gpt2", num_rows=11)
    write_data(folder / "llama", num_rows=11, make_model=make_tiny_llama)
    write_data(folder / "two rows", num_rows=2)
    found = {number: Several(number, folder) for number in (2, 3)}
    folders = [str(several.folder) for several in found.values()]
    # One thread, as torchrun has it: more would not outlive the fork.
    process = start(1, "tests.several_processes", *folders, folder=folder, OMP_NUM_THREADS="1")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return found


@pytest.fixture(params=[2, 3], ids=lambda number: f"{number} processes")
def several(request: pytest.FixtureRequest, trained: dict[int, Several]) -> Several:
    return trained[request.param]


def assert_same(found: Trained, expected: Trained) -> None:
    assert len(found[1]) == len(expected[1])
    for entry, wanted in zip(found[1], expected[1], strict=True):
        assert entry == pytest.approx(wanted, rel=0, abs=TOLERANCE)
    assert found[0].keys() == expected[0].keys()
    for name, weight in expected[0].items():
        torch.testing.assert_close(found[0][name], weight, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_several_processes_train_what_one_does(several: Several, name: str, tmp_path: Path) -> None:
    """Losses, norms, validation losses and weights; last steps are partial, and so are batches."""
    case = dataclasses.replace(several.cases[name], checkpoints=str(tmp_path), shard_model=False)
    weights, result = train(case, Processes())
    assert len(result.log) >= 2
    assert_same(several.result(name), (weights, result.log))


def test_a_checkpoint_moves_between_one_process_and_several_sharded(several: Several) -> None:
    """Two steps in one, two in several, two in one."""
    weights, result = train(several.moved("moved", max_steps=6), Processes())
    assert result.timing.num_steps == 2
    expected, whole = train(several.moved("unbroken", max_steps=6), Processes())
    assert whole.timing.num_steps == 6
    assert_same((weights, result.log), (expected, whole.log))


# --- one voice ------------------------------------------------------------------------------------

WORK = """
import os, sys
import torch
from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.training.torchrun import run_in_processes

def main(processes):
    processes.total(torch.ones(()))  # else one may fail while the other connects, and gloo says so
    if sys.argv[1] == "all" or (sys.argv[1] == "one" and processes.rank == 1):
        raise UserError("step 7: the loss is nan.")
    if sys.argv[1] == "fault" and processes.rank == 1:
        raise KeyError("a mistake of ours")
    processes.total(torch.ones(()))
    processes.total(torch.ones(()))

run_stage("work", lambda: run_in_processes("work", main))
"""


@pytest.mark.parametrize("where", ["all", "one"])
def test_a_users_error_in_one_process_or_in_all_is_one_message(where: str, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    process = start(2, "work", where, folder=tmp_path)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors == "\nwork: step 7: the loss is nan.\n"


def test_a_fault_of_ours_shows_its_own_traceback_alone(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    process = start(2, "work", "fault", folder=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("\nwork: Traceback") and errors.endswith("'a mistake of ours'\n\n")
    assert errors.count("Traceback") == 1


@pytest.mark.parametrize("options", ["2", "--processes 2", "--nproc-per-node '2"])
def test_options_that_torchrun_does_not_know_are_one_message(
    options: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TORCHRUN, options)
    with pytest.raises(UserError, match=f"^{TORCHRUN}: found .*; wanted options of torchrun"):
        run_in_processes("nothing", lambda _: None)
    assert capfd.readouterr() == ("", "")


# --- no survivors ---------------------------------------------------------------------------------


def write_stage_folder(folder: Path) -> None:
    """All that the stage reads: steps enough to be killed in, and a checkpoint after each."""
    write_data(folder, num_rows=11)
    (folder / "lock").touch()
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["encoding"]["max_length"] = 32
    params["train"] = SMALL_TRAIN | {"epochs": 12, "eval_steps": 9}
    params["runtime"]["checkpoint_minutes"] = 1e-9
    yaml.dump(params, folder / "params.yaml")


def start_stage(folder: Path, num_processes: int, *, checkpoints: str) -> subprocess.Popen[str]:
    names = {
        "--encoded": "encoded",
        "--base": "base",
        "--lock": "lock",
        "--checkpoints": checkpoints,
        "--model": "out/model",
        "--metrics": "out/train.json",
        "--log": "out/log.csv",
        "--timing": "out/timing.json",
    }
    arguments = [argument for pair in names.items() for argument in pair]
    return start(num_processes, "stages.train", *arguments, folder=folder)


def children(process: int) -> list[int]:
    """Of all threads, oldest first."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def newest_checkpoint(folder: Path) -> int:
    steps = [path.name.removeprefix("checkpoint-") for path in folder.glob("*/checkpoint-*")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def kill_stage(
    folder: Path, target: Literal["stage", "worker"], number: int, *, step: int
) -> tuple[int, str]:
    """Kill at a step's checkpoint; the exit code and stderr, when all processes have ended."""
    process = start_stage(folder, 2, checkpoints="killed")
    wait_until(lambda: newest_checkpoint(folder / "killed") >= step or process.poll() is not None)
    workers = children(process.pid)
    os.kill(process.pid if target == "stage" else workers[1], number)
    _, errors = process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, workers)))
    assert "Traceback" not in errors
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())
    return process.returncode, errors


def take_outputs(folder: Path) -> dict[str, bytes]:
    """Read and remove them, as DVC does before a run; the timing may differ."""
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    assert found.pop("out/timing.json")
    shutil.rmtree(folder / "out")
    return found


@pytest.mark.thorough
def test_the_stage_in_two_processes_is_killed_and_continues_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    write_stage_folder(tmp_path)
    process = start_stage(tmp_path, 2, checkpoints="unbroken")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = [line for line in (output + errors).splitlines() if line.strip()]
    assert len([line for line in lines if "trained parameters, cpu, no, 2 processes" in line]) == 1
    assert all(line.startswith(("train: ", "W&B: ")) for line in lines), errors
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    expected = take_outputs(tmp_path)

    code, errors = kill_stage(tmp_path, "stage", signal.SIGTERM, step=4)
    assert code == 128 + 15
    assert errors.count("stopped by signal 15; run the same command again to continue.") == 1
    code, errors = kill_stage(tmp_path, "stage", signal.SIGKILL, step=8)
    assert code == -9
    code, errors = kill_stage(tmp_path, "worker", signal.SIGKILL, step=12)
    assert code == 1
    assert errors.endswith(
        "\ntrain: process 1 of the run was killed by signal 9; run the same command again to "
        "continue.\n"
    )
    process = start_stage(tmp_path, 2, checkpoints="killed")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("train: continuing from checkpoint-") == 1
    assert take_outputs(tmp_path) == expected
