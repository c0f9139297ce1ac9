"""Trainings of tiny models in two processes and in three: ``python -m`` this, by a test.

Loading torch and transformers takes longer than all that they do here: one process loads, and those
that train are its forks. What torchrun adds, the tests of the stage start.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from tuning.language_model.device import Device
from tuning.run.params import TrainParams
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.loss import PackedLoss, decoder_blocks
from tuning.training.processes import Processes, shard
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training
from tuning.training.trainer import TrainResult, fine_tune


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training."""

    base: str
    tokenizer: str
    rows: str
    checkpoints: str
    train: dict[str, Any]
    shard_model: bool = False


def train(case: Case, processes: Processes) -> tuple[dict[str, Tensor], TrainResult]:
    """The main process's weights, and the result."""
    rows = PackedRows(Path(case.rows), max_length=32, packing=False, pad_token_id=1)
    model = load_for_training(Path(case.base), Path(case.tokenizer), rows.max_length)
    with ExitStack() as stack:
        checkpoints = None
        if processes.is_main:
            folder = CheckpointFolder(Path(case.checkpoints), "fingerprint")
            checkpoints = stack.enter_context(folder)
        device = Device(kind="cpu", precision="no", compiled=False, notes=())
        objective = PackedLoss(model, device)
        if case.shard_model:
            shard(objective, decoder_blocks(model))
        result = fine_tune(
            objective,
            rows,
            TrainParams.model_validate(case.train),
            seed=7,
            device=device,
            processes=processes,
            checkpoints=checkpoints,
            checkpoint_minutes=1e-9,
            validation=rows,
        )
    return processes.gather(model.state_dict(keep_vars=True)), result


def work(rank: int, size: int, cases: dict[str, Case], folder: Path) -> None:
    """Be one of the processes that train the cases; the main one writes what ``train`` returns.

    They meet at a file: a store of torch's own would listen at all addresses.
    """
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    processes = Processes(rank=rank, size=size, num_on_this_host=size)
    for name, case in cases.items():
        weights, result = train(case, processes)
        if processes.is_main:
            whole = {key: weight.clone() for key, weight in weights.items()}
            save_file(whole, folder / f"{name}.safetensors")
            content = json.dumps(dataclasses.asdict(result))
            (folder / f"{name}.json").write_text(content, encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Train the cases that each folder's ``cases.json`` holds by name; its name is how many do."""
    fork = multiprocessing.get_context("fork")
    for folder in map(Path, sys.argv[1:]):
        content = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        cases = {name: Case(**values) for name, values in content.items()}
        size = int(folder.name)
        workers = [
            fork.Process(target=work, args=(rank, size, cases, folder)) for rank in range(size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            sys.exit(1)


if __name__ == "__main__":
    main()
