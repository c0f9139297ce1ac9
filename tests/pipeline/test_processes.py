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
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.families import small_model
from tests.several_processes import Case, Reading, Trained, read, train
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.language_model.device import Device
from tuning.processes.group import Processes
from tuning.processes.sharding import Spread
from tuning.processes.torchrun import TORCHRUN, run_in_processes
from tuning.run.errors import UserError
from tuning.run.params import load_params
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.loss import sharded_loss
from tuning.training.start import load_for_training

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).parents[2]
TEXTS = ["Hello! How are you?", "I am fine, thank you. And you?", "Not much, just reading."] * 20
TOLERANCE = 1e-5
"""Of weights and losses in float32, whose sums the number of processes reorders."""

PARAMS = load_params(ROOT / "params.yaml").model_dump()
SMALL_TRAIN = PARAMS["train"] | {
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


def in_bfloat16(folder: Path, texts: list[str]) -> None:
    """As most models are published."""
    make_tiny_llama(folder, texts)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)


def mixture(folder: Path, texts: list[str]) -> None:
    """Experts that are one tensor for a layer, some of which get no token of a process's rows."""
    make_tiny_llama(folder, texts)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    small_model("qwen3_moe", vocab_size=vocabulary, output_router_logits=True).save_pretrained(
        folder
    )


# --- the same results -----------------------------------------------------------------------------

LORA = {"rank": 2, "alpha": 8}
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
    "adapters": {"lora": LORA},
    "adapters, sharded": {"lora": LORA, "shard_model": True},
    "adapters with directions, sharded": {
        "data": "llama",
        "lora": LORA | {"use_dora": True},
        "shard_model": True,
    },
    # The first of its kind, as in a stage: the other processes have made no such model before.
    "experts, sharded": {"data": "mixture", "shard_model": True},
    "adapters of experts, sharded": {"data": "mixture", "lora": LORA, "shard_model": True},
    "experts": {"data": "mixture"},
    "bfloat16": {"data": "bfloat16", "mixed_precision": "bf16"},
    "bfloat16, sharded": {"data": "bfloat16", "mixed_precision": "bf16", "shard_model": True},
    "adapters beside bfloat16, sharded": {
        "data": "bfloat16",
        "mixed_precision": "bf16",
        "lora": LORA,
        "shard_model": True,
    },
}
LOG_IN_BFLOAT16 = 1e-3
"""The tolerance of losses where products are of bfloat16: rows in other passes round otherwise."""
WEIGHTS_IN_BFLOAT16 = 0.02
"""That of weights: two updates of AdamW, which go by the sign of a gradient however small, and
rounding when they are published."""


class Several:
    """All cases, trained in so many processes and in one."""

    def __init__(self, num_processes: int, data: Path) -> None:
        self.data = data
        self.folder = data / str(num_processes)
        self.folder.mkdir()
        self.cases = {name: self._case(name, **options) for name, options in CASES.items()}
        train(self.moved("moved", max_steps=2), Processes())
        several = self.cases | {"moved": self.moved("moved", max_steps=4, shard_model=True)}
        self.readings = {
            f"{name}{', in parts' if in_parts else ''}": Reading(
                model=str(data / name / "base"),
                tokenizer=str(data / "gpt2/encoded/tokenizer"),
                in_parts=in_parts,
            )
            for name in ("gpt2", "hybrid")
            for in_parts in (False, True)
        }
        content = {
            "trained": {name: dataclasses.asdict(case) for name, case in several.items()},
            "read": {name: dataclasses.asdict(each) for name, each in self.readings.items()},
        }
        (self.folder / "cases.json").write_text(json.dumps(content))

    def _case(
        self,
        name: str,
        *,
        data: str = "gpt2",
        shard_model: bool = False,
        lora: dict[str, Any] | None = None,
        **changes: object,
    ) -> Case:
        folder = self.data / data
        settings = {"lora": PARAMS["train"]["lora"] | (lora or {})}
        return Case(
            base=str(folder / "base"),
            encoded=str(folder / "encoded"),
            checkpoints=str(self.folder / "checkpoints" / name),
            params=PARAMS
            | {
                "encoding": PARAMS["encoding"] | {"max_length": 32},
                "runtime": PARAMS["runtime"] | {"shard_model": shard_model},
                "train": SMALL_TRAIN | settings | changes,
            },
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
        log = json.loads((self.folder / f"{name}.json").read_text())
        return load_file(self.folder / f"{name}.safetensors"), log


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Several]:
    """By number of processes, all in one start."""
    folder = tmp_path_factory.mktemp("several")
    write_data(folder / "gpt2", num_rows=11)
    write_data(folder / "llama", num_rows=11, make_model=make_tiny_llama)
    write_data(folder / "bfloat16", num_rows=11, make_model=in_bfloat16)
    write_data(folder / "mixture", num_rows=11, make_model=mixture)
    write_data(folder / "two rows", num_rows=2)
    small_model("lfm2").save_pretrained(folder / "hybrid/base")  # reads a text alone
    found = {number: Several(number, folder) for number in (2, 3)}
    folders = [str(several.folder) for several in found.values()]
    # One thread, as torchrun has it: more would not outlive the fork.
    process = start(1, "tests.several_processes", *folders, folder=folder, OMP_NUM_THREADS="1")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return found


READINGS = ("gpt2", "gpt2, in parts", "hybrid", "hybrid, in parts")


@pytest.fixture(params=[2, 3], ids=lambda number: f"{number} processes")
def several(request: pytest.FixtureRequest, trained: dict[int, Several]) -> Several:
    return trained[request.param]


def assert_same(found: Trained, expected: Trained) -> None:
    is_low = any(weight.dtype == torch.bfloat16 for weight in expected[0].values())
    of_log, of_weights = TOLERANCE, TOLERANCE
    if is_low:
        of_log, of_weights = LOG_IN_BFLOAT16, WEIGHTS_IN_BFLOAT16
    assert len(found[1]) == len(expected[1])
    for entry, wanted in zip(found[1], expected[1], strict=True):
        assert entry == pytest.approx(wanted, rel=0, abs=of_log)
    assert found[0].keys() == expected[0].keys()
    for name, weight in expected[0].items():
        assert found[0][name].dtype == weight.dtype
        rtol = torch.finfo(torch.bfloat16).eps if is_low else 0
        torch.testing.assert_close(found[0][name], weight, rtol=rtol, atol=of_weights, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_several_processes_train_what_one_does(several: Several, name: str, tmp_path: Path) -> None:
    """Losses, norms, validation losses and weights; last steps are partial, and so are batches."""
    case = several.cases[name]
    runtime = case.params["runtime"] | {"shard_model": False}
    alone = case.params | {"runtime": runtime}
    case = dataclasses.replace(case, checkpoints=str(tmp_path), params=alone)
    weights, log = train(case, Processes())
    assert len(log) > 2
    assert_same(several.result(name), (weights, log))


def test_a_checkpoint_moves_between_one_process_and_several_sharded(several: Several) -> None:
    """Two steps in one, two in several, two in one."""
    moved = train(several.moved("moved", max_steps=6), Processes())
    assert len(several.result("moved")[1]) == 4 + 1
    assert_same(moved, train(several.moved("unbroken", max_steps=6), Processes()))


@pytest.mark.parametrize("name", READINGS)
def test_several_processes_read_and_write_what_one_does(several: Several, name: str) -> None:
    """Each its part, of models that are whole in each or in parts."""
    nats, written = json.loads((several.folder / f"{name}.json").read_text())
    reading = dataclasses.replace(several.readings[name], in_parts=False)
    expected_nats, expected = read(reading, Processes())
    assert written == expected
    assert sum(map(len, expected_nats)) > 1_000
    for found, wanted in zip(nats, expected_nats, strict=True):
        assert found == pytest.approx(wanted, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize(("kind", "gathered"), [("llama", "bfloat16"), ("mixture", "float32")])
def test_blocks_of_linear_layers_are_gathered_in_the_type_of_the_products(
    kind: str, gathered: str, trained: dict[int, Several], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms and embeddings are not; nor are blocks whose experts autocast does not know."""
    data = trained[2].data / kind
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{data}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        device = Device(kind="cpu", precision="bf16", compiled=False, notes=())
        spread = Spread(
            lambda: (load_for_training(data / "base", data / "encoded/tokenizer", 32), None),
            Processes(),
        )
        loss = sharded_loss(spread, device)
        seen: dict[str, str] = {}

        def note(module: nn.Module, _: object, name: str) -> None:
            seen[name] = str(module.get_parameter("weight").dtype).removeprefix("torch.")

        for name, module in loss.named_modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter):
                module.register_forward_pre_hook(partial(note, name=name))
        ids = torch.arange(5, 25)[None]
        positions = torch.arange(20)[None]
        with torch.autocast("cpu", torch.bfloat16):
            nats, _ = loss(
                input_ids=ids, labels=ids, position_ids=positions, segment_ids=positions * 0
            )
        nats.backward()  # type: ignore[no-untyped-call]
    finally:
        dist.destroy_process_group()
    assert seen["model.model.layers.1.self_attn.q_proj"] == gathered
    assert seen["model.model.layers.1.input_layernorm"] == "float32"
    assert seen["model.model.embed_tokens"] == "float32"
    for each in loss.parameters():
        assert each.dtype == torch.float32
        assert each.grad is not None and each.grad.dtype == torch.float32


# --- one voice ------------------------------------------------------------------------------------

WORK = """
import os, sys
import torch
import torch.distributed as dist
from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.processes.torchrun import run_in_processes

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
