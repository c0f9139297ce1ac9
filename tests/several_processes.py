"""Tiny models trained and read by two processes and by three: ``python -m`` this, by a test.

Loading torch and transformers takes longer than all that they do here: one process loads, and those
that train are its forks. What torchrun adds, the tests of the stage start.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tuning.dealing import load_among
from tuning.language_model.device import choose_device
from tuning.language_model.loading import load_plain_model
from tuning.processes.group import Processes
from tuning.run.params import Params
from tuning.scoring.nats import TokenSequence, token_nll
from tuning.tokens.templates import template_of
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.publishing import publish
from tuning.training.setup import build, to_publish
from tuning.training.trainer import fine_tune
from tuning.writing.decoding import Request, Sampling, write_replies


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training."""

    encoded: str
    base: str
    checkpoints: str
    params: dict[str, Any]


Trained = tuple[dict[str, Tensor], list[dict[str, float]]]
"""Published weights; a log, and last in it what publishing changed."""


def train(case: Case, processes: Processes) -> Trained:
    """Do as the stage does."""
    params = Params.model_validate(case.params)
    encoded, base = Path(case.encoded), Path(case.base)
    device = choose_device(
        precision=params.train.mixed_precision, compile_model=False, num_threads=None
    )
    torch.manual_seed(params.seed)
    setup = build(
        encoded,
        base,
        params.train,
        device,
        processes,
        max_length=params.encoding.max_length,
        in_parts=params.runtime.shard_model,
    )
    with ExitStack() as stack:
        checkpoints = None
        if processes.is_main:
            folder = CheckpointFolder(Path(case.checkpoints), "fingerprint")
            checkpoints = stack.enter_context(folder)
        result = fine_tune(
            setup.objective,
            setup.rows,
            params.train,
            seed=params.seed,
            device=device,
            processes=processes,
            checkpoints=checkpoints,
            checkpoint_minutes=1e-9,
            validation=setup.validation,
        )
        model, changes = to_publish(setup, base, encoded / "tokenizer")
        published: dict[str, Tensor] = {}
        if processes.is_main:
            publish(model, encoded / "tokenizer", Path(case.checkpoints) / "model")
            published = load_file(Path(case.checkpoints) / "model/model.safetensors")
    return published, [*result.log, changes]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One model that is read, and writes."""

    model: str
    tokenizer: str
    in_parts: bool


def read(reading: Reading, processes: Processes) -> tuple[list[list[float]], list[list[int]]]:
    """Nats of sequences, and written ids."""
    template = template_of(Path(reading.tokenizer))

    def load(device: str) -> PreTrainedModel:
        return load_plain_model(Path(reading.model), device_map=device)

    model = load_among(processes, load, "cpu", in_parts=reading.in_parts)
    draw = random.Random(0)
    contexts = [[draw.randrange(3, 60) for _ in range(45 + 3 * i)] for i in range(25)]
    sequences = [TokenSequence.after(ids[:20], ids[20:]) for ids in contexts]
    nats = token_nll(model, sequences, batch_size=1)
    tag = template.tokenizer.encode("Hello", add_special_tokens=False)
    requests = [
        Request(tuple(ids), length, (tuple(tag),), Sampling(1.0, 0.95, seed), "")
        for ids in contexts[:7]
        for length in (20, 45)
        for seed in range(2)
    ]
    replies = write_replies(model, template, requests, max_new_tokens=9, batch_size=3)
    return [each[20:].tolist() for each in nats], [list(reply.ids) for [reply] in replies]


def work(
    rank: int, size: int, cases: dict[str, Case], readings: dict[str, Reading], folder: Path
) -> None:
    """Be one of the processes; the main one writes what ``train`` and ``read`` return.

    They meet at a file: a store of torch's own would listen at all addresses.
    """
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    processes = Processes(rank=rank, size=size, num_on_this_host=size)
    for name, case in cases.items():
        weights, log = train(case, processes)
        if processes.is_main:
            save_file(weights, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(log), encoding="utf-8")
    for name, reading in readings.items():
        found = read(reading, processes)
        assert processes.all_of(found) == [found] * size
        if processes.is_main:
            (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    processes.part()


def main() -> None:
    """Do what each folder's ``cases.json`` holds by name; its own name is how many do it."""
    fork = multiprocessing.get_context("fork")
    for folder in map(Path, sys.argv[1:]):
        content = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        cases = {name: Case(**values) for name, values in content["trained"].items()}
        readings = {name: Reading(**values) for name, values in content["read"].items()}
        size = int(folder.name)
        workers = [
            fork.Process(target=work, args=(rank, size, cases, readings, folder))
            for rank in range(size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            sys.exit(1)


if __name__ == "__main__":
    main()
