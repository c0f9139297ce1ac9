"""Stage 4: the base model and the encoded dialogues in, a fine-tuned model out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tuning.language_model.device import (
    Device,
    choose_device,
    keep_freed_memory,
    num_cores,
    peak_memory_gb,
    set_threads,
)
from tuning.language_model.loading import own_dtype, reads_alone
from tuning.run.errors import UserError
from tuning.run.files import weights_sha256, write_csv, write_json
from tuning.run.inputs import Inputs
from tuning.run.params import Params, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.template_record import TemplateRecord, read_record
from tuning.timing import record_timing
from tuning.tracking import head_commit, start_run
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.few_bits import quantization_config
from tuning.training.finish import merge_adapters, round_weights
from tuning.training.flops import flops_per_token, linear_shapes, matmul_peak
from tuning.training.lora import add_adapters, merged
from tuning.training.loss import PackedLoss, decoder_blocks
from tuning.training.passes import Passes
from tuning.training.processes import Processes, shard
from tuning.training.progress import Timing
from tuning.training.publishing import check_publishing, publish
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.start import load_for_training, weights_dtype
from tuning.training.torchrun import run_in_processes
from tuning.training.trainer import LOG_COLUMNS, VALIDATION_LOSS, TrainResult, fine_tune

if TYPE_CHECKING:
    from peft import PeftModel

FEW_STEPS = 30
"""Fewer optimizer steps than these hardly move a model, at usual learning rates."""
USUAL_RATE_OF_ADAPTERS = 1e-4


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a training works on."""

    rows: PackedRows
    validation: PackedRows | None
    """Rows on which the validation loss is measured; None if it is not to be measured."""
    sample: PackedRows | None
    """Rows on which is measured what publishing changes, if it changes anything: of the validation
    set, if it has any."""
    objective: PackedLoss
    passes: Passes
    """How rows reach the objective."""
    adapters: PeftModel | None
    """Low-rank adapters, if any; merged into the model once it is trained."""
    is_sharded: bool
    """True if each process holds only a part of the model."""


def main(processes: Processes) -> None:
    """Build, train (or continue), check that nothing changed meanwhile, record."""
    args = parse_arguments()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    params = load_params()
    inputs = Inputs([args.encoded, args.base, args.lock], partial(declared_params, "train"))
    if processes.share(inputs.fingerprint) != inputs.fingerprint:
        raise UserError("code, parameters or inputs on this host are not those of the first host.")
    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.num_threads,
    )
    num_threads = params.num_threads or num_cores()
    num_threads = set_threads(max(1, num_threads // processes.num_on_this_host))
    torch.manual_seed(params.seed)
    setup = build(args.encoded, args.base, params, device, processes)
    device = setup.passes.device
    if processes.is_main:
        announce(setup, params, device, processes.size)
    measure_peak = partial(matmul_peak, linear_shapes(setup.objective.model), device)
    peak = measure_peak() if processes.is_main else 0.0
    with ExitStack() as stack:
        checkpoints, run = None, None
        if processes.is_main:
            checkpoints = stack.enter_context(
                CheckpointFolder(args.checkpoints, inputs.fingerprint)
            )
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
        model, changes = to_publish(setup, args, params)
        weights = processes.gather(model.state_dict(keep_vars=True)) if setup.is_sharded else None
        if checkpoints is None or run is None:
            return
        inputs.check_unchanged()
        peak = processes.size * max(peak, measure_peak())  # other work may disturb one of the two
        figures = {
            **vars(result.timing),
            **use_of_matmul_peak(setup.objective.model, result.timing, peak),
            "peak_memory_gb": peak_memory_gb(device.kind),
            "num_processes": processes.size,
            "num_threads": num_threads,
            "last_step": len(result.log),
            "wandb_run_id": run.run_id,
            "git_commit": head_commit(),
            "dvc_exp_name": os.environ.get("DVC_EXP_NAME"),
        }
        publish(model, args.encoded / "tokenizer", args.model, weights)
        record(args.log, args.metrics, result, setup.rows, device, changes)
        model_sha256 = weights_sha256(args.model)
        record_timing(args.timing, "train", figures | {"model_sha256": model_sha256})
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


def build(encoded: Path, base: Path, params: Params, device: Device, processes: Processes) -> Setup:
    """Read the rows and make the model ready to be trained.

    Raises:
        UserError: there is nothing to train or to validate on, or the model or two settings do not
            go together.
    """
    train = params.train
    tokenizer = encoded / "tokenizer"
    template = template_record(tokenizer)
    dtype = weights_dtype(base, train, device)
    lora = train.lora
    few_bits = None
    if lora.quantization is not None:
        few_bits = quantization_config(lora.quantization, device.dtype)
    model = load_for_training(
        base,
        tokenizer,
        params.encoding.max_length,
        dtype=dtype,
        device_map=device.kind if few_bits else None,
        quantization=few_bits,
    )
    check_publishing(model, tokenizer)
    if reads_alone(model):
        device = alone_on(device, model, params)
    read_rows = partial(
        PackedRows,
        max_length=params.encoding.max_length,
        packing=train.packing and not reads_alone(model),
        pad_token_id=template.pad_id,
    )
    rows = read_rows(encoded)
    if not rows.num_target_tokens:
        raise UserError(
            f"nothing to train: no window in {encoded} has a target token; run dvc repro."
        )
    rounds = train.lora.rank is not None or dtype != own_dtype(base)
    validation = sample = None
    if train.eval_steps is not None or rounds:
        validation = sample = read_rows(encoded / "validation", num_windows=train.eval_windows)
    if validation is not None and not validation.num_target_tokens:
        sample = read_rows(encoded, num_windows=train.eval_windows)
        if train.eval_steps is not None:
            raise UserError(
                "train.eval_steps is set, and there is nothing to validate on: no validation "
                "dialogue has a target token (data.validation_fraction, encoding.loss_on)."
            )
    is_sharded = params.runtime.shard_model and processes.size > 1
    if not is_sharded:  # else each process moves its part
        nn.Module.to(model, device.kind)
    adapters = None
    if lora.rank is not None:
        adapters = add_adapters(model, lora, template.new_tokens)
    objective = PackedLoss(model, device, gradient_checkpointing=train.gradient_checkpointing)
    if is_sharded:
        shard(objective, decoder_blocks(model))
    passes = Passes(
        objective=objective,
        train=train,
        max_length=params.encoding.max_length,
        device=device,
        processes=processes,
    )
    return Setup(
        rows=rows,
        validation=validation if train.eval_steps is not None else None,
        sample=sample if rounds else None,
        objective=objective,
        passes=passes,
        adapters=adapters,
        is_sharded=is_sharded,
    )


def alone_on(device: Device, model: PreTrainedModel, params: Params) -> Device:
    """Return the device for a model that reads texts alone, with notes on what is not as asked."""
    kind = model.config.model_type
    notes = list(device.notes)
    if params.train.packing:
        notes.append(
            f"{kind} models read a row from left to right whatever a mask hides, so each window "
            "has a row of its own, in spite of train.packing"
        )
    if device.compiled:  # loops over tokens: minutes or hours, and no faster in the end
        notes.append(f"{kind} models are not compiled, in spite of train.torch_compile")
    return replace(device, compiled=False, notes=tuple(notes))


def template_record(tokenizer: Path) -> TemplateRecord:
    """Return the record that encode writes beside the tokenizer."""
    record = read_record(tokenizer)
    assert record is not None
    return record


def to_publish(
    setup: Setup, args: argparse.Namespace, params: Params
) -> tuple[PreTrainedModel, dict[str, float]]:
    """The trained model as it is published, in the base model's own type, and its sample's loss."""
    dtype = own_dtype(args.base)
    if setup.sample is None:
        return setup.objective.model, {}
    if setup.adapters is None:
        model = setup.objective.model
        return model, round_weights(model, dtype, setup.passes, setup.sample)
    adapted, tokenizer = setup.adapters, args.encoded / "tokenizer"

    def merge() -> PreTrainedModel:
        plain = load_for_training(args.base, tokenizer, params.encoding.max_length, dtype=dtype)
        return merged(adapted, plain, params.train.lora, template_record(tokenizer).new_tokens)

    return merge_adapters(merge, setup.passes, setup.sample)


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
    run_stage("train", lambda: run_in_processes("stages.train", main))
