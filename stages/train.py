"""Stage 4: the base model and the encoded dialogues in, a fine-tuned model out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tuning.language_model.device import (
    Device,
    choose_device,
    keep_freed_memory,
    peak_memory_gb,
    share_threads,
)
from tuning.processes.group import Processes
from tuning.processes.torchrun import run_in_processes
from tuning.progress import waiting
from tuning.run.files import weights_sha256, write_csv, write_json
from tuning.run.inputs import Inputs
from tuning.run.params import Params, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.tracking import head_commit, start_run
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.flops import flops_per_token, linear_shapes, matmul_peak
from tuning.training.lora import never_learned
from tuning.training.progress import Timing
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.setup import Setup, build, to_publish
from tuning.training.trainer import LOG_COLUMNS, VALIDATION_LOSS, TrainResult, fine_tune

FEW_STEPS = 30
"""Fewer optimizer steps than these hardly move a model, at usual learning rates."""
USUAL_RATE_OF_ADAPTERS = 1e-4


def main(processes: Processes) -> None:
    """Build, train (or continue), check that nothing changed meanwhile, record."""
    args = parse_arguments()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    params = load_params()
    inputs = Inputs([args.encoded, args.base, args.lock], partial(declared_params, "train"))
    processes.require_same(inputs.fingerprint)
    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.num_threads,
    )
    num_threads = share_threads(params.num_threads, processes.num_on_this_host)
    torch.manual_seed(params.seed)
    with waiting("train: loading the model", shown=processes.is_main):
        setup = build(
            args.encoded,
            args.base,
            params.train,
            device,
            processes,
            max_length=params.encoding.max_length,
            in_parts=params.runtime.shard_model,
        )
    device = setup.passes.device
    if processes.is_main:
        announce(setup, params, device, processes.size)
    with ExitStack() as stack:
        checkpoints, run = None, None
        if processes.is_main:
            folder = CheckpointFolder(args.checkpoints, inputs.fingerprint)
            checkpoints = stack.enter_context(folder)
            run = stack.enter_context(
                start_run(
                    job_type="train",
                    config=params.model_dump(),
                    fingerprint=inputs.fingerprint,
                    id_file=checkpoints.path / "wandb_run_id",
                )
            )

        def on_step(step: int, metrics: dict[str, float]) -> None:
            assert run is not None
            run.log({f"train/{name}": value for name, value in metrics.items()}, step=step)

        result = fine_tune(
            setup.objective,
            setup.rows,
            params.train,
            seed=params.seed,
            device=device,
            processes=processes,
            checkpoints=checkpoints,
            checkpoint_minutes=params.runtime.checkpoint_minutes,
            validation=setup.validation,
            on_step=on_step,
        )
        if processes.is_main:
            announce_idle(setup)
        tokenizer = args.encoded / "tokenizer"
        with waiting("train: what is published", shown=processes.is_main):
            model, changes = to_publish(setup, args.base, tokenizer)
        processes.part()
        if checkpoints is None or run is None:
            return
        inputs.check_unchanged()
        shapes = linear_shapes(setup.objective.model)
        # Other work may disturb one of the two.
        peak = processes.size * max(matmul_peak(shapes, device) for _ in range(2))
        with waiting("train: writing the model"):
            publish(model, tokenizer, args.model)
        record(args.log, args.metrics, result, setup.rows, device, changes)
        used = use_of_matmul_peak(setup.objective.model, result.timing, peak)
        of_run = {"wandb_run_id": run.run_id, "num_threads": num_threads}
        figures = wall_clock_figures(result, device, processes, args.model)
        record_timing(args.timing, "train", figures | used | of_run)
        run.finish()  # it may take a while, and be killed: as long there is something to continue
        checkpoints.finish()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("--encoded", type=Path, required=True, help="encode's windows, tokenizer")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--checkpoints", type=Path, required=True, help="outside DVC's outputs")
    parser.add_argument("--model", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--log", type=Path, required=True, help="one row per step, CSV")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    return parser.parse_args()


def announce(setup: Setup, params: Params, device: Device, num_processes: int) -> None:
    """Say what is going to be trained, on what, and whether that is little."""
    for note in device.notes:
        print(f"train: {note}", file=sys.stderr)
    parameters = setup.objective.parameters()
    num_trained = sum(each.numel() for each in parameters if each.requires_grad)
    print(
        f"train: {setup.rows.num_target_tokens:,} target tokens in {len(setup.rows):,} rows, "
        f"{num_trained:,} trained parameters, {device.kind}, {device.precision}"
        f"{', compiled' if device.compiled else ''}"
        f"{f', {num_processes} processes' if num_processes > 1 else ''}",
        flush=True,
    )
    lora = params.train.lora
    if lora.rank is not None and params.train.learning_rate < USUAL_RATE_OF_ADAPTERS:
        print(
            "train: adapters usually take a train.learning_rate of 1e-4 to 5e-4 (found "
            f"{params.train.learning_rate:g}).",
            flush=True,
        )
    num_steps = Schedule(params.train, num_rows=len(setup.rows), seed=params.seed).num_steps
    if num_steps < FEW_STEPS:
        print(
            f"train: {num_steps:,} optimizer steps are few. More dialogues (data.max_dialogues), "
            "more train.epochs or fewer train.gradient_accumulation_steps make more.",
            flush=True,
        )


def announce_idle(setup: Setup) -> None:
    """Say which adapters have learned nothing."""
    if setup.adapters is not None and (names := never_learned(setup.adapters)):
        print(
            f"train: the adapters of {', '.join(names)} learned nothing: the model takes these "
            "layers' weights past them, or no token came to them. train.lora.targets can leave "
            "them out.",
            file=sys.stderr,
        )


def record(
    log: Path,
    metrics: Path,
    result: TrainResult,
    rows: PackedRows,
    device: Device,
    changes: Mapping[str, float],
) -> None:
    """Write a row per step, and the figures of the whole, with those of what publishing changed."""
    columns = [*LOG_COLUMNS, VALIDATION_LOSS]
    write_csv(log, columns, ([row.get(c, "") for c in columns] for row in result.log))
    last_epoch = result.log[-1]["epoch"] - 1
    figures: dict[str, Any] = {
        "num_steps": len(result.log),
        "num_rows": len(rows),
        "num_target_tokens": rows.num_target_tokens,
        "packing": rows.packing,
        "packing_efficiency": rows.packing_efficiency,
        "first_loss": result.log[0]["loss"],
        "last_epoch_loss": mean_loss([e for e in result.log if e["epoch"] > last_epoch]),
        # Other bits come out on another device, or where the precision fell back.
        "device": device.kind,
        "precision": device.precision,
        "compiled": device.compiled,
        **changes,
    }
    if result.best_step is not None:
        figures["best_step"] = result.best_step
        figures["best_validation_loss"] = result.log[result.best_step - 1][VALIDATION_LOSS]
    write_json(metrics, figures)


def wall_clock_figures(
    result: TrainResult, device: Device, processes: Processes, model: Path
) -> dict[str, Any]:
    """What a training took, and of which commit and model that is."""
    return {
        **vars(result.timing),
        "peak_memory_gb": peak_memory_gb(device.kind),
        "num_processes": processes.size,
        "last_step": len(result.log),
        "git_commit": head_commit(),
        "dvc_exp_name": os.environ.get("DVC_EXP_NAME"),
        "model_sha256": weights_sha256(model),
    }


def use_of_matmul_peak(model: PreTrainedModel, timing: Timing, peak: float) -> dict[str, float]:
    """Compare what the training multiplied per second with what the machine can at most."""
    per_row_token, per_target = flops_per_token(model)
    used = per_row_token * timing.row_tokens_per_second + per_target * timing.tokens_per_second
    return {"matmul_peak_gflops": peak / 1e9, "share_of_matmul_peak": used / peak}


def mean_loss(log: list[dict[str, float]]) -> float:
    """Nats per target token over all of the steps, not a mean of their means."""
    num_target_tokens = sum(entry["num_target_tokens"] for entry in log)
    return sum(entry["loss"] * entry["num_target_tokens"] for entry in log) / num_target_tokens


if __name__ == "__main__":
    run_stage("train", partial(run_in_processes, "stages.train", main))
