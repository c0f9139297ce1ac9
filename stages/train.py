"""Stage 4: the base model and the encoded dialogues in, a fine-tuned model out."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from stages.device import choose_device, keep_freed_memory, set_threads
from stages.encoding.dataset import PackedRows
from stages.encoding.speakers import load_tokenizer
from stages.files import weights_sha256, write_csv, write_json
from stages.inputs import Inputs
from stages.params import load_params
from stages.process import run_stage
from stages.timing import record_timing
from stages.training.checkpoint import CheckpointFolder
from stages.training.model import load_for_training, publish
from stages.training.tracking import start_run
from stages.training.trainer import LOG_COLUMNS, fine_tune


def main() -> None:
    """Load, train (or continue), check that nothing changed meanwhile, publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoded", type=Path, required=True, help="prep's windows and tokenizer")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--checkpoints", type=Path, required=True, help="outside DVC's outputs")
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model's folder")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics, JSON")
    parser.add_argument("--log", type=Path, required=True, help="one row per step, CSV")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    params = load_params()
    inputs = Inputs([args.encoded, args.base, args.lock], declared_params)
    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.train.num_threads,
    )
    for note in device.notes:
        print(f"train: {note}", file=sys.stderr)
    set_threads(params.train.num_threads)
    set_seed(params.seed)

    tokenizer_folder = args.encoded / "tokenizer"
    rows = PackedRows(
        args.encoded,
        max_length=params.encoding.max_length,
        packing=params.train.packing,
        pad_token_id=load_tokenizer(tokenizer_folder).pad_token_id,
    )
    model = load_for_training(args.base, tokenizer_folder)
    print(
        f"train: {rows.num_target_tokens:,} target tokens in {len(rows):,} rows, "
        f"{model.num_parameters():,} parameters, {device.kind}, {device.precision}"
        f"{', compiled' if device.compiled else ''}",
        flush=True,
    )
    with (
        CheckpointFolder(args.checkpoints, inputs.fingerprint) as checkpoints,
        start_run(job_type="train", config=params.model_dump()) as run,
    ):
        result = fine_tune(
            model,
            rows,
            params.train,
            seed=params.seed,
            device=device,
            checkpoints=checkpoints,
            checkpoint_minutes=params.runtime.checkpoint_minutes,
            on_step=lambda step, metrics: run.log(
                {f"train/{name}": value for name, value in metrics.items()}, step=step
            ),
        )
        inputs.check_unchanged()
        publish(model, tokenizer_folder, args.model)
        last_epoch = [entry for entry in result.log if entry["epoch"] > params.train.epochs - 1]
        metrics = {
            "num_steps": len(result.log),
            "num_rows": len(rows),
            "num_target_tokens": rows.num_target_tokens,
            "packing_efficiency": rows.packing_efficiency,
            "first_loss": result.log[0]["loss"],
            "last_epoch_loss": mean_loss(last_epoch),
        }
        write_csv(args.log, LOG_COLUMNS, ([row[c] for c in LOG_COLUMNS] for row in result.log))
        write_json(args.metrics, metrics)
        record_timing(
            args.timing,
            "train",
            {
                **vars(result.timing),
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "device": device.kind,
                "precision": device.precision,
                "compiled": device.compiled,
                "num_threads": params.train.num_threads,
                "model_sha256": weights_sha256(args.model),
                "last_step": len(result.log),
                "wandb_run_id": run.run_id,
            },
        )
        checkpoints.finish()


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
    run_stage("train", main)
