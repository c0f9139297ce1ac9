"""Stage 4: the base model and the encoded dialogues in, a fine-tuned model out."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from stages.corpus.dialogue import read_dialogues
from stages.device import choose_device, keep_freed_memory, peak_memory_gb, set_threads
from stages.encoding.dataset import PackedRows
from stages.encoding.speakers import SpeakerTokens, load_tokenizer
from stages.errors import UserError
from stages.evaluation.decoding import Sampling
from stages.evaluation.generation import continue_dialogues
from stages.evaluation.samples import SAMPLE_COLUMNS, samples_as_rows
from stages.files import weights_sha256, write_csv, write_json
from stages.inputs import Inputs
from stages.params import Params, load_params
from stages.process import run_stage
from stages.timing import record_timing
from stages.training.checkpoint import CheckpointFolder
from stages.training.flops import flops_per_token, linear_shapes, matmul_peak
from stages.training.model import add_adapters, as_generator, load_for_training, publish
from stages.training.processes import Processes
from stages.training.torchrun import run_in_processes
from stages.training.tracking import head_commit, start_run
from stages.training.trainer import LOG_COLUMNS, VALIDATION_LOSS, fine_tune


def main(processes: Processes) -> None:
    """Load, train (or continue), check that nothing changed meanwhile, publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoded", type=Path, required=True, help="encode's windows, tokenizer")
    parser.add_argument("--validation", type=Path, required=True, help="dialogues, for samples")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--checkpoints", type=Path, required=True, help="outside DVC's outputs")
    parser.add_argument("--model", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--log", type=Path, required=True, help="one row per step, CSV")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    params = load_params()
    inputs = Inputs([args.encoded, args.validation, args.base, args.lock], declared_params)
    if processes.share(inputs.fingerprint) != inputs.fingerprint:
        raise UserError("code, parameters or inputs on this host are not those of the first host.")
    num_threads = max(1, params.train.num_threads // processes.num_on_this_host)
    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.train.num_threads,
    )
    set_threads(num_threads)
    set_seed(params.seed)

    tokenizer_folder = args.encoded / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_folder)
    read_rows = partial(
        PackedRows,
        max_length=params.encoding.max_length,
        packing=params.train.packing,
        pad_token_id=tokenizer.pad_token_id,
    )
    rows = read_rows(args.encoded)
    if not rows.num_target_tokens:
        raise UserError(
            f"nothing to train: no window in {args.encoded} has a target token; run dvc repro."
        )
    validation = None
    if params.train.eval_steps is not None:
        validation = read_rows(args.encoded / "validation", num_windows=params.train.eval_windows)
        if not validation.num_target_tokens:
            raise UserError(
                "train.eval_steps is set, and there is nothing to validate on: no validation "
                "dialogue has a target token (data.validation_fraction, encoding.loss_on)."
            )
    model = load_for_training(args.base, tokenizer_folder, params.encoding.max_length)
    is_sharded = params.runtime.shard_model and processes.size > 1
    if not is_sharded:  # else each process moves its part
        nn.Module.to(model, device.kind)
    adapters = None
    if params.train.lora.rank is not None:
        if params.runtime.shard_model:
            raise UserError("runtime.shard_model and train.lora.rank do not go together; set one.")
        adapters = add_adapters(model, params.train.lora, len(load_tokenizer(args.base)))
    if processes.is_main:
        for note in device.notes:
            print(f"train: {note}", file=sys.stderr)
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        print(
            f"train: {rows.num_target_tokens:,} target tokens in {len(rows):,} rows, "
            f"{trained:,} trained parameters, {device.kind}, {device.precision}"
            f"{', compiled' if device.compiled else ''}"
            f"{f', {processes.size} processes' if processes.size > 1 else ''}",
            flush=True,
        )
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
                    id_file=folder.path / "wandb_run_id",
                )
            )

        def on_step(step: int, metrics: dict[str, float]) -> None:
            assert run is not None
            run.log({f"train/{name}": value for name, value in metrics.items()}, step=step)

        def on_validation(step: int) -> None:
            if run is not None and not is_sharded:
                with as_generator(model):
                    table = samples(model, SpeakerTokens(tokenizer), args.validation, params)
                run.log_samples("train/samples", SAMPLE_COLUMNS, table, step=step)

        measure_peak = partial(matmul_peak, linear_shapes(model), device)
        peak = measure_peak() if processes.is_main else 0.0
        result = fine_tune(
            model,
            rows,
            params.train,
            seed=params.seed,
            device=device,
            processes=processes,
            checkpoints=checkpoints,
            checkpoint_minutes=params.runtime.checkpoint_minutes,
            shard_model=is_sharded,
            validation=validation,
            on_step=on_step,
            on_validation=on_validation,
        )
        weights = processes.gather(model.state_dict(keep_vars=True)) if is_sharded else None
        if checkpoints is None or run is None:
            return
        inputs.check_unchanged()
        memory = peak_memory_gb(device.kind)
        peak = processes.size * max(peak, measure_peak())  # other work may disturb one of the two
        per_row_token, per_target = flops_per_token(model)
        used = per_row_token * result.timing.row_tokens_per_second
        used += per_target * result.timing.tokens_per_second
        if adapters is not None:
            adapters.merge_and_unload()
        publish(model, tokenizer_folder, args.model, weights)
        last_epoch = result.log[-1]["epoch"] - 1
        metrics = {
            "num_steps": len(result.log),
            "num_rows": len(rows),
            "num_target_tokens": rows.num_target_tokens,
            "packing_efficiency": rows.packing_efficiency,
            "first_loss": result.log[0]["loss"],
            "last_epoch_loss": mean_loss([e for e in result.log if e["epoch"] > last_epoch]),
            # Other bits come out on another device, or where the precision fell back.
            "device": device.kind,
            "precision": device.precision,
            "compiled": device.compiled,
        }
        if result.best_step is not None:
            metrics["best_step"] = result.best_step
            metrics["best_validation_loss"] = result.log[result.best_step - 1][VALIDATION_LOSS]
        columns = [*LOG_COLUMNS, VALIDATION_LOSS]
        write_csv(args.log, columns, ([row.get(c, "") for c in columns] for row in result.log))
        write_json(args.metrics, metrics)
        record_timing(
            args.timing,
            "train",
            {
                **vars(result.timing),
                "matmul_peak_gflops": peak / 1e9,
                "share_of_matmul_peak": used / peak,
                "peak_memory_gb": memory,
                "num_processes": processes.size,
                "num_threads": num_threads,
                "model_sha256": weights_sha256(args.model),
                "last_step": len(result.log),
                "wandb_run_id": run.run_id,
                "git_commit": head_commit(),
                "dvc_exp_name": os.environ.get("DVC_EXP_NAME"),
            },
        )
        run.finish()  # it may take a while, and be killed: as long there is something to continue
        checkpoints.finish()


def samples(
    model: PreTrainedModel, template: SpeakerTokens, validation: Path, params: Params
) -> list[list[str]]:
    """A few validation dialogues continued by the model as it is now, ``SAMPLE_COLUMNS``."""
    found = continue_dialogues(
        model,
        template,
        list(islice(read_dialogues(validation), 10 * params.runtime.num_train_samples)),
        num_samples=params.runtime.num_train_samples,
        prompt_turns=4,
        reply_turns=2,
        max_new_tokens=40,
        batch_size=params.train.batch_size,
        sampling=Sampling(temperature=0.7, top_p=0.9, seed=params.seed),
    )
    return samples_as_rows(found)


def mean_loss(log: list[dict[str, float]]) -> float:
    """Nats per target token over all of the steps, not a mean of their means."""
    num_target_tokens = sum(entry["num_target_tokens"] for entry in log)
    return sum(entry["loss"] * entry["num_target_tokens"] for entry in log) / num_target_tokens


def declared_params() -> dict[str, Any]:
    """What dvc.yaml declares for this stage, as it stands in params.yaml now."""
    params = load_params()
    return {
        "seed": params.seed,
        "train": params.train.model_dump(),
        "encoding.max_length": params.encoding.max_length,
    }


if __name__ == "__main__":
    run_stage("train", lambda: run_in_processes("stages.train", main))
