"""Does a run fit this machine? Its plan, what is in the way, and what would fit."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from tools.preflight.finding import Finding
from tools.preflight.last_run import is_fetched
from tools.preflight.memory import Counted
from tools.preflight.plan import CLOSE, Machine, make_plan, smallest_change, with_values
from tuning.language_model.device import Device, choose_device
from tuning.run.errors import UserError, first_line
from tuning.run.params import ModelParams, Params
from tuning.run.pipeline import own_stages
from tuning.training.flops import matmul_peak
from tuning.windows import read_windows

SHARE_OF_PEAK = {"cpu": 0.6, "cuda": 0.4}
"""The share of the matrix products' peak that training reaches (assumed for GPUs)."""
RECOMPUTED = 4 / 3
"""Time with gradient checkpointing, over that without."""
NUM_TOKENS = 512
"""Tokens of the product whose speed is measured."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CHANGES_NOTHING = {
    "seed": 0,
    "train.learning_rate": 1e-4,
    "train.lr_scheduler_type": "linear",
    "train.warmup_steps": 0.0,
    "train.weight_decay": 0.0,
    "train.max_grad_norm": 1.0,
}
"""Runs that differ in these alone take the same."""
NOTHING_FITS = "No change of train.* would fit: take a smaller model, or a larger machine."


def check_plan(runs: Sequence[Params], base: Path | None) -> Iterator[Finding]:
    """Plan each run on this machine; find those that do not fit, and what would."""
    transformers_logging.set_verbosity_error()
    planned: list[Params] = []
    for params in runs:
        alike = with_values(params, CHANGES_NOTHING)
        if alike not in planned:
            planned.append(alike)
            yield from _findings(params, base)


def this_machine(params: Params) -> Machine:
    """Return the device that the stages would choose here, with its memory."""
    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.num_threads,
    )
    if device.kind == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        return Machine(device=device, memory=memory, num_devices=torch.cuda.device_count())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    return Machine(device=device, memory=memory if limit == "max" else min(memory, int(limit)))


def config_of(model: ModelParams, base: Path | None) -> PreTrainedConfig | None:
    """Return the configuration of the model that a run takes, or None where it is not here."""
    folders = [*([base] if base and is_fetched(model, base) else []), Path(model.name)]
    found: str | Path | object = next((f for f in folders if (f / "config.json").exists()), None)
    if found is None and model.revision is not None:
        found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    if not isinstance(found, str | Path):
        return None
    config: PreTrainedConfig = AutoConfig.from_pretrained(found, local_files_only=True)
    return config


def training_seconds(params: Params, counted: Counted, device: Device) -> float | None:
    """Return how long training takes on the windows of the last encode; None before there are any.

    By the speed of one product, measured now.
    """
    encoded = Path(own_stages()["encode"]["outs"][0])
    if not (encoded / "window_starts.npy").exists():
        return None
    windows, train = read_windows(encoded), params.train
    length = params.encoding.max_length
    num_rows = math.ceil(len(windows.input_ids) / length)
    if not train.packing:
        num_rows = len(windows.window_starts) - 1
    rows_per_step = train.batch_size * train.gradient_accumulation_steps
    num_epochs: float = train.epochs
    if train.max_steps is not None:
        num_epochs = train.max_steps * rows_per_step / max(1, num_rows)
    per_row_token, per_target = counted.flops_per_token
    flops = per_row_token * num_rows * length + per_target * int(windows.is_target.sum())
    (shape, _), *_ = counted.shapes.most_common()
    speed = SHARE_OF_PEAK[device.kind] * matmul_peak(Counter([shape]), device, NUM_TOKENS)
    return num_epochs * flops / speed * (RECOMPUTED if train.gradient_checkpointing else 1)


def _findings(params: Params, base: Path | None) -> Iterator[Finding]:
    name = params.model.name
    try:
        machine = this_machine(params)
        config = config_of(params.model, base)
        if config is None:
            yield Finding("plan", f"none before {name} is here: dvc repro fetch gets it.")
            return
        plan = make_plan(config, params, machine)
    except UserError as error:
        yield Finding("error", str(error))
        return
    except Exception as error:  # whatever a configuration can make of Python; fetch says it
        cause = f"{type(error).__name__}: {first_line(error)}"
        yield Finding("plan", f"none: the bytes of {name} could not be counted ({cause}).")
        return
    seconds = training_seconds(params, plan.counted, machine.device)
    hours = (
        "hours once encode has run" if seconds is None else f"training about {seconds / 3600:.1f} h"
    )
    yield Finding(
        "plan",
        f"train {_gb(plan.train)}, score {_gb(plan.score)} of {_gb(machine.memory)}; "
        f"disk {_gb(plan.disk)}; {hours}",
    )
    if (kind := _kind(plan.train, machine.memory)) is not None:
        change = smallest_change(config, params, machine)
        yield Finding(
            kind,
            f"training takes about {_gb(plan.train)} of {_gb(machine.memory)}. "
            + (f"{_words(change, params)} would fit." if change else NOTHING_FITS),
        )
    if (kind := _kind(plan.score, machine.memory)) is not None:
        yield Finding(
            kind,
            f"scoring takes about {_gb(plan.score)} of {_gb(machine.memory)}, "
            f"{_gb(plan.score_weights)} of which are the weights. Lower score.batch_size, or take "
            "a smaller model.",
        )
    free = shutil.disk_usage(".").free
    if free < plan.least_disk:
        text = f"{_gb(free)} of disk are free; the models take {_gb(plan.least_disk)}."
        yield Finding("error", text)
    elif free < plan.disk:
        yield Finding(
            "warning",
            f"{_gb(free)} of disk are free; models and checkpoints take up to {_gb(plan.disk)}, "
            "and training goes on without checkpoints on a full disk.",
        )


def _kind(needed: float, memory: float) -> Literal["error", "warning"] | None:
    if needed < CLOSE * memory:
        return None
    return "error" if needed > memory else "warning"


def _words(change: Mapping[str, Any], params: Params) -> str:
    """Write a change as in params.yaml; what it leaves as it is, is left out."""
    values = {
        key: value
        for key, value in change.items()
        if value != reduce(getitem, key.split("."), params.model_dump())
    }
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items())


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
