"""The parts of benchmarks/gpu.py, each in a process of its own that leaves its figures as JSON."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_utils
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import logging as transformers_logging

from benchmarks.gpu_models import (
    SEED,
    SIZES,
    Size,
    make_model,
    make_quantised_model,
    make_rows,
    train_params,
)
from tuning.language_model.device import Device, choose_device, peak_memory_gb
from tuning.packing import IGNORE_INDEX
from tuning.run.process import die_with_parent
from tuning.scoring.nats import TokenSequence, token_nll
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.flops import flops_per_token, linear_shapes, matmul_peak
from tuning.training.lora import add_adapters
from tuning.training.loss import PackedLoss
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.trainer import fine_tune

NUM_WARM_UP_STEPS = 2
"""Optimizer steps that are not timed: they compile, and fill the caches of memory."""
SCORE_BATCHES = (4, 32)
"""``score.batch_size``: the default, and what a GPU has room for."""
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, bfloat16 weights": {"weights": "bfloat16"},
    "full, adamw_8bit": {"optimizer": "adamw_8bit"},
    "LoRA": {"lora": {"rank": 16}},
    "LoRA, nf4": {"lora": {"rank": 16, "quantization": "nf4"}},
}
"""What is trained: changes of the recipe."""

PLAN = "tools.preflight.memory"
"""The module that plans memory; it is loaded only where what it loads is installed."""

Settings = Mapping[str, Any]
Figures = dict[str, Any]
Step = tuple[float, float]
"""Seconds and loss of an optimizer step."""


def work(settings: Settings, out: Path, log: Path) -> None:
    """Do a part in this process, a new one: figures go to a file, what it says to another."""
    file = log.open("a", buffering=1, encoding="utf-8")
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file
    die_with_parent()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    figures = PARTS[settings["part"]](settings)
    out.write_text(json.dumps(figures, allow_nan=False), encoding="utf-8")


def about(settings: Settings) -> Figures:
    """The device, its bf16 peak on a large square product, and the packages."""
    device = _device(settings)
    names = ("torch", "transformers", "peft", "bitsandbytes", "triton")
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    width = 128
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = "CPU"
    if device.kind == "cuda":
        width = 8192
        name = torch.cuda.get_device_name()
        memory = torch.cuda.get_device_properties(0).total_memory
    return {
        "device": name,
        "kind": device.kind,
        "memory_gb": memory / 1e9,
        "peak_tflops": matmul_peak(Counter({(width, width): 1}), device, width) / 1e12,
        "notes": list(device.notes),
        "versions": {each: installed[each] for each in names if each in installed},
    }


def agree(settings: Settings) -> Figures:
    """Loss and gradients of a tiny model on one batch, against those of the CPU in float32."""
    device = _device(settings)
    size = SIZES["tiny"]
    plain = Device(kind="cpu", precision="no", compiled=False, notes=())
    others = {
        "CPU, bf16": Device(kind="cpu", precision="bf16", compiled=False, notes=()),
        "device, float32": Device(
            kind=device.kind, precision="no", compiled=device.compiled, notes=()
        ),
        "device, bf16": Device(
            kind=device.kind, precision="bf16", compiled=device.compiled, notes=()
        ),
    }
    with TemporaryDirectory() as name:
        rows = make_rows(Path(name) / "rows", size, 4)
        batch = rows.collate([rows[index] for index in range(len(rows))], len(rows))
    loss, gradients = _loss_and_gradients(size, batch, plain)
    figures = {}
    for what, other in others.items():
        found, found_gradients = _loss_and_gradients(size, batch, other)
        differences = {
            name: float((found_gradients[name] - each).norm() / each.norm())
            for name, each in gradients.items()
        }
        largest = max(differences, key=lambda name: differences[name])
        figures[what] = {
            "loss": abs(found - loss) / loss,
            "gradient": differences[largest],
            "largest_in": largest,
        }
    return {"loss": loss, "differences": figures}


def resume(settings: Settings) -> Figures:
    """Train, with a checkpoint after each step or without any; die in the middle, if so told."""
    device = _device(settings)
    size = SIZES[settings["size"]]
    model = make_model(size, torch.float32, device.kind)

    def on_step(step: int, _metrics: dict[str, float]) -> None:
        if step == settings.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    with TemporaryDirectory(dir=settings["folder"]) as name:
        rows = make_rows(Path(name) / "rows", size, size.num_steps * 4)
        run = partial(
            fine_tune,
            PackedLoss(model, device),
            rows,
            train_params(batch_size=4, max_steps=size.num_steps),
            seed=SEED,
            device=device,
            on_step=on_step,
        )
        if settings["has_checkpoints"]:
            with CheckpointFolder(Path(settings["folder"]), "checkpoints") as checkpoints:
                result = run(checkpoints=checkpoints, checkpoint_minutes=0)
        else:
            result = run(checkpoints=None, checkpoint_minutes=math.inf)
    hashes = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        hashes.update(parameter.detach().cpu().numpy().tobytes())
    return {
        "weights_sha256": hashes.hexdigest(),
        "num_steps_here": result.timing.num_steps,
        "num_steps": len(result.log),
        "is_deterministic": not torch.is_deterministic_algorithms_warn_only_enabled(),
    }


def train(settings: Settings) -> Figures:
    """Speed, memory and first loss of one way to train one model."""
    is_ours = settings["by"] == "this project"
    # The plain loop has no need for what makes runs repeatable.
    device = _device(settings) if is_ours else _plain_device()
    size = SIZES[settings["size"]]
    num_steps = NUM_WARM_UP_STEPS + size.num_steps
    batch_size = size.rows_per_pass(settings["memory_gb"])
    params = train_params(**METHODS[settings["method"]], batch_size=batch_size, max_steps=num_steps)
    lora = params.lora
    if lora.quantization is not None:
        model = make_quantised_model(size, device.kind)
    else:
        is_low = lora.rank is not None or params.weights == "bfloat16"
        model = make_model(size, torch.bfloat16 if is_low else torch.float32, device.kind)
    measure_peak = partial(matmul_peak, linear_shapes(model), device, batch_size * size.max_length)
    if lora.rank is not None:
        add_adapters(model, lora, ())
    peak = measure_peak()
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as name:
        rows = make_rows(Path(name) / "rows", size, num_steps * batch_size)
        schedule = Schedule(params, num_rows=len(rows), seed=SEED)
        starts = np.diff(rows.windows.window_starts)
        num_tokens, num_targets = (
            [sum(count(index) for index in schedule.rows(step)) for step in range(num_steps)]
            for count in (lambda index: int(starts[rows.rows[index]].sum()), rows.num_targets)
        )
        if is_ours:
            steps = _by_project(model, rows, params, device)
        else:
            is_compiled = settings["by"] == "plain loop, compiled"
            steps = list(_by_plain_loop(model, rows, params, device, is_compiled=is_compiled))
    figures = {"peak_memory_gb": peak_memory_gb(device.kind)}
    peak = max(peak, measure_peak())  # a GPU may have slowed down, or not yet sped up
    seconds = sum(second for second, _ in steps[NUM_WARM_UP_STEPS:])
    tokens, targets = (sum(each[NUM_WARM_UP_STEPS:]) for each in (num_tokens, num_targets))
    per_token, per_target = flops_per_token(model)
    flops = (per_token * tokens + per_target * targets) / seconds
    return figures | {
        "rows_per_pass": batch_size,
        "max_length": size.max_length,
        "packing_efficiency": rows.packing_efficiency,
        "num_trained_parameters": sum(e.numel() for e in model.parameters() if e.requires_grad),
        "tokens_per_second": tokens / seconds,
        "target_tokens_per_second": targets / seconds,
        "tflops": flops / 1e12,
        "peak_tflops": peak / 1e12,
        "share_of_peak": flops / peak,
        "first_step_seconds": steps[0][0],
        "first_loss": steps[0][1],
        "last_loss": steps[-1][1],
        "precision": device.precision,
    }


def plan(settings: Settings) -> Figures:
    """What make preflight counts for one way to train one model; it computes nothing."""
    kind = _plain_device().kind
    is_compiled = not settings["is_tiny"]
    size = SIZES[settings["size"]]
    params = train_params(
        **METHODS[settings["method"]], batch_size=size.rows_per_pass(settings["memory_gb"])
    )
    config = size.config
    config.dtype = torch.float32 if params.lora.rank is None else torch.bfloat16
    counted = importlib.import_module(PLAN).count_training(
        config,
        params,
        max_length=size.max_length,
        device=Device(kind=kind, precision="bf16", compiled=is_compiled, notes=()),
        has_new_tokens=False,
    )
    return {"planned_memory_gb": counted.peak / 1e9}


def score(settings: Settings) -> Figures:
    """Tokens per second of scoring made-up dialogues, in small batches and in large ones."""
    kind = _plain_device().kind
    size = SIZES[settings["size"]]
    model = make_model(size, getattr(torch, settings["dtype"]), kind).eval()
    if not hasattr(modeling_utils, "slice_logits_to_keep"):  # transformers before 5.20 or so
        vars(model)["forward"] = partial(_forward_with_kept_logits, model)
    with TemporaryDirectory() as name:
        windows = make_rows(Path(name) / "rows", size, 2 if settings["is_tiny"] else 48).windows
    spans = [slice(*bounds) for bounds in pairwise(windows.window_starts)]
    sequences = [
        TokenSequence(windows.input_ids[span].tolist(), windows.is_target[span].tolist())
        for span in spans
    ]
    speeds = {}
    for batch_size in SCORE_BATCHES:
        token_nll(model, sequences[:16], batch_size=batch_size)
        started = time.perf_counter()
        token_nll(model, sequences, batch_size=batch_size)
        speeds[str(batch_size)] = len(windows.input_ids) / (time.perf_counter() - started)
    return {"tokens_per_second": speeds, "peak_memory_gb": peak_memory_gb(kind)}


PARTS: dict[str, Callable[[Settings], Figures]] = {
    "about": about,
    "agree": agree,
    "resume": resume,
    "train": train,
    "plan": plan,
    "score": score,
}


def _device(settings: Settings) -> Device:
    """Return the device as train chooses it; a tiny model is not compiled."""
    is_compiled = not settings["is_tiny"]
    return choose_device(precision="bf16", compile_model=is_compiled, num_threads=None)


def _plain_device() -> Device:
    kind: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    return Device(kind=kind, precision="bf16", compiled=False, notes=())


def _loss_and_gradients(
    size: Size, batch: dict[str, Tensor], device: Device
) -> tuple[float, dict[str, Tensor]]:
    """Nats per target, and the gradient of that by parameter, on the CPU in float64."""
    model = nn.Module.to(make_model(size, torch.float32, "cpu"), device.kind)
    with torch.autocast(device.kind, device.dtype, enabled=device.precision != "no"):
        nll, weight = PackedLoss(model, device)(
            **{name: each.to(device.kind) for name, each in batch.items()}
        )
    loss = nll / weight
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: each.grad.cpu().double()
        for name, each in model.named_parameters()
        if each.grad is not None
    }
    return float(loss), gradients


def _by_project(
    model: PreTrainedModel, rows: PackedRows, params: Any, device: Device
) -> list[Step]:
    """The steps of this project's training; the loss of each has waited for the GPU."""
    times = [time.perf_counter()]
    result = fine_tune(
        PackedLoss(model, device),
        rows,
        params,
        seed=SEED,
        device=device,
        checkpoints=None,
        checkpoint_minutes=math.inf,
        on_step=lambda _step, _metrics: times.append(time.perf_counter()),
    )
    losses = [entry["loss"] for entry in result.log]
    return list(zip(np.diff(times).tolist(), losses, strict=True))


def _by_plain_loop(
    model: PreTrainedModel, rows: PackedRows, params: Any, device: Device, *, is_compiled: bool
) -> Iterator[Step]:
    """The steps of transformers' Trainer, written out: the same windows and loss, each step.

    A batch has as many windows as a pass here has rows, and is padded to the longest; attention is
    SDPA, the loss the model's own over all logits, the products autocast, AdamW fused.
    """
    model.train()
    schedule = Schedule(params, num_rows=len(rows), seed=SEED)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
    )
    forward: Any = torch.compile(model, dynamic=True) if is_compiled else model
    for step in range(schedule.num_steps):
        started = time.perf_counter()
        indices = schedule.rows(step)
        num_targets = sum(rows.num_targets(index) for index in indices)
        windows = [window for index in indices for window in rows.rows[index]]
        summed = torch.zeros((), device=device.kind)
        for start in range(0, len(windows), params.batch_size):
            batch = _padded(rows, windows[start : start + params.batch_size], device.kind)
            with torch.autocast(device.kind, dtype=torch.bfloat16):
                loss = forward(**batch, num_items_in_batch=num_targets).loss
            loss.backward()
            summed += loss.detach()
        torch.nn.utils.clip_grad_norm_(trained, params.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss_of_step = float(summed)
        if device.kind == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - started, loss_of_step


def _padded(rows: PackedRows, windows: list[int], kind: str) -> dict[str, Tensor]:
    """Return a batch as transformers' collators make it, ``[B, T]`` each."""
    starts = rows.windows.window_starts
    spans = [slice(starts[window], starts[window + 1]) for window in windows]
    ids = [torch.from_numpy(rows.windows.input_ids[span].astype(np.int64)) for span in spans]
    is_target = [torch.from_numpy(rows.windows.is_target[span].copy()) for span in spans]
    labels = [torch.where(*each, IGNORE_INDEX) for each in zip(is_target, ids, strict=True)]
    columns = {
        "input_ids": (ids, 0),
        "labels": (labels, IGNORE_INDEX),
        "attention_mask": ([torch.ones_like(each) for each in ids], 0),
    }
    return {
        name: nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=fill).to(kind)
        for name, (each, fill) in columns.items()
    }


def _forward_with_kept_logits(
    model: PreTrainedModel, *, logits_to_keep: Tensor, **inputs: Any
) -> CausalLMOutput:
    """Compute logits where a ``[B, T]`` mask wants them, as newer versions of transformers do."""
    hidden = model.get_decoder()(**inputs).last_hidden_state
    return CausalLMOutput(logits=model.get_output_embeddings()(hidden[logits_to_keep]))
