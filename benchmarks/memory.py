"""The memory that preflight plans, beside what training takes: the tables of docs/large-models.md.

    python -m benchmarks.memory --model models/base

Every row is a process of its own, on a CPU and made-up text: two optimizer steps, their checkpoints
and what publishing does. The models but SmolLM2 are random ones.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
)

from benchmarks.train import ROOT, run
from tools.preflight.fit import this_machine
from tools.preflight.plan import CLOSE, Machine, make_plan, with_values
from tuning.language_model.device import Device, keep_freed_memory, set_threads
from tuning.processes.group import Processes
from tuning.run.params import Params, load_params
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.publishing import publish
from tuning.training.setup import build, to_publish
from tuning.training.trainer import fine_tune
from tuning.windows import WindowWriter

SMOLLM2 = "SmolLM2-135M"
WIDE = "51 M, vocabulary of 128 k"
GPT2_MEDIUM = "GPT-2 Medium's shape"
MODELS: dict[str, PreTrainedConfig] = {
    WIDE: LlamaConfig(
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=10,
        num_attention_heads=5,
        num_key_value_heads=5,
        vocab_size=128_256,
        tie_word_embeddings=True,
    ),
    GPT2_MEDIUM: GPT2Config(
        n_embd=1024, n_layer=24, n_head=16, n_positions=2048, vocab_size=50_304
    ),
}
"""Random models by what the table calls them; SmolLM2 is the one of ``--model``."""
NUM_WINDOWS = 200


@dataclass(frozen=True)
class Row:
    """A configuration of the table."""

    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Parameters by their keys; the others are those of ``SHORT``."""

    @property
    def name(self) -> str:
        """What the table says."""
        changed = ", ".join(
            f"{key.partition('.')[2]} {value}" for key, value in self.changes.items()
        )
        return f"{self.model}{', ' if changed else ''}{changed}"


SHORT = {
    "num_threads": 1,
    "train.max_steps": 2,
    "train.gradient_accumulation_steps": 1,
    "train.torch_compile": False,
    "runtime.checkpoint_minutes": 0.01,
}
COMPILED = {"train.torch_compile": True}
CHECKPOINTING = {"train.gradient_checkpointing": True}
ADAPTERS = {"train.lora.rank": 16}
SHORT_ROWS = {"train.packing": False, "encoding.max_length": 256}
NF4 = {"train.lora.quantization": "nf4"}
SHARDED = {"runtime.shard_model": True}
FEW_BITS = {"train.weights": "bfloat16", "train.optimizer": "adamw_8bit"}
ROWS = (
    Row(SMOLLM2),
    Row(SMOLLM2, COMPILED),
    Row(SMOLLM2, CHECKPOINTING),
    Row(SMOLLM2, CHECKPOINTING | COMPILED),
    Row(SMOLLM2, SHORT_ROWS),
    Row(SMOLLM2, {"train.batch_size": 2, "encoding.max_length": 1024}),
    Row(SMOLLM2, {"train.batch_size": 1, "encoding.max_length": 2048}),
    Row(SMOLLM2, FEW_BITS),
    Row(SMOLLM2, ADAPTERS),
    Row(SMOLLM2, ADAPTERS | {"encoding.template": "chat"}),
    Row(SMOLLM2, ADAPTERS | COMPILED),
    Row(SMOLLM2, ADAPTERS | NF4),
    Row(WIDE),
    Row(WIDE, ADAPTERS),
    Row(GPT2_MEDIUM, ADAPTERS | {"train.batch_size": 2}),
)
LARGE: dict[str, dict[str, Any]] = {
    "1 B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "3 B": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "8 B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}
"""Shapes of Llama 3.2 and 3.1, in bfloat16."""
RECIPE = {
    "encoding.max_length": 2048,
    "encoding.template": "chat",
    "train.batch_size": 4,
    "train.gradient_accumulation_steps": 8,
    "train.torch_compile": True,
}
RECIPES: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({}, 1),
    "full, checkpointing": (CHECKPOINTING, 1),
    "full, checkpointing, few bits": (CHECKPOINTING | FEW_BITS, 1),
    "LoRA": (ADAPTERS, 1),
    "LoRA, checkpointing": (ADAPTERS | CHECKPOINTING, 1),
    "LoRA on nf4": (ADAPTERS | NF4, 1),
    "LoRA on nf4, checkpointing": (ADAPTERS | NF4 | CHECKPOINTING, 1),
    "LoRA, checkpointing, sharded": (ADAPTERS | CHECKPOINTING | SHARDED, 2),
    "full, checkpointing, sharded": (CHECKPOINTING | SHARDED, 2),
    "full, checkpointing, sharded over 8": (CHECKPOINTING | SHARDED, 8),
}
"""Changes of ``RECIPE`` and the number of GPUs, by the name that docs/large-models.md has."""
GPUS = (24, 48, 80)


def main() -> None:
    """Measure a row at a time, print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="SmolLM2, as fetch writes it")
    parser.add_argument("--rows", type=int, nargs="+", help="their numbers, from 1; all by default")
    parser.add_argument("--recipes", action="store_true", help="plan large models on GPUs instead")
    parser.add_argument("--train-here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_here:
        return train()
    if args.recipes:
        return plan_recipes()
    if args.model is None or not (args.model / "config.json").exists():
        sys.exit("--model: wanted the folder of SmolLM2, such as models/base after dvc repro fetch")
    print("| | plan, GB | measured, GB | plan / measured |\n|---|---|---|---|", flush=True)
    for number, row in enumerate(ROWS, start=1):
        if args.rows is None or number in args.rows:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                params = prepare(folder, args.model.resolve(), row)
                config = AutoConfig.from_pretrained(folder / "models/base")
                plan = make_plan(config, params, this_machine(params))
                here = [sys.executable, "-m", "benchmarks.memory", "--train-here"]
                _, measured = run(folder, "train", here)
            planned = plan.train / 1e9
            ratio = planned / measured
            print(f"| {row.name} | {planned:.2f} | {measured:.2f} | {ratio:.2f} |", flush=True)


def plan_recipes() -> None:
    """Print the memory of each recipe, by the plan alone."""
    print(
        "| model | recipe | GPUs | train, GB each | score, GB | fits |\n|---|---|---|---|---|---|"
    )
    params = with_values(load_params(ROOT / "params.yaml"), RECIPE)
    device = Device(kind="cuda", precision="bf16", compiled=True, notes=())
    for model, shape in LARGE.items():
        config = LlamaConfig(**shape, vocab_size=128_256, num_key_value_heads=8, dtype="bfloat16")
        for name, (changes, count) in RECIPES.items():
            machine = Machine(device=device, memory=0, num_devices=count)
            plan = make_plan(config, with_values(params, changes), machine)
            train, score = plan.train / 1e9, plan.score / 1e9
            fits = next((f"{size} GB" for size in GPUS if train < CLOSE * size), "none of these")
            print(
                f"| {model} | {name} | {count} | {train:.0f} | {score:.0f} | {fits} |", flush=True
            )


def prepare(folder: Path, smollm2: Path, row: Row) -> Params:
    """Lay out what training reads: parameters, the model, windows."""
    params = with_values(load_params(ROOT / "params.yaml"), SHORT | row.changes)
    YAML(typ="safe").dump(params.model_dump(), folder / "params.yaml")
    base, encoded = folder / "models/base", folder / "data/encoded"
    for path in (base, encoded / "validation"):
        path.mkdir(parents=True)
    for file in smollm2.iterdir():
        if row.model == SMOLLM2 or "token" in file.name or "chat" in file.name:
            shutil.copyfile(file, base / file.name)
    if row.model != SMOLLM2:
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(MODELS[row.model]).save_pretrained(base)
    prepare_tokenizer(
        base, encoded / "tokenizer", 2, choice=params.encoding.template, has_roles=False
    )
    for where in (encoded, encoded / "validation"):
        write_windows(where, params.encoding.max_length)
    return params


def write_windows(folder: Path, max_length: int) -> None:
    """Write windows of random ids, of which the last three quarters are targets."""
    random_numbers = np.random.default_rng(1)
    with WindowWriter(folder) as writer:
        for length in random_numbers.integers(max_length // 2, max_length + 1, NUM_WINDOWS):
            ids = random_numbers.integers(20, 40_000, length, dtype=np.int32)
            writer.add(ids, np.arange(length) >= length // 4, [length])


def train() -> None:
    """Do what the train stage does, but for its measurement of the matrix products' peak."""
    keep_freed_memory()
    params = load_params()
    device = this_machine(params).device
    set_threads(params.num_threads)
    base, encoded = Path("models/base"), Path("data/encoded")
    setup = build(
        encoded,
        base,
        params.train,
        device,
        Processes(),
        max_length=params.encoding.max_length,
        in_parts=False,
    )
    with CheckpointFolder(Path("checkpoints"), "fingerprint") as checkpoints:
        fine_tune(
            setup.objective,
            setup.rows,
            params.train,
            seed=params.seed,
            device=device,
            checkpoints=checkpoints,
            checkpoint_minutes=params.runtime.checkpoint_minutes,
        )
    model, _ = to_publish(setup, base, encoded / "tokenizer")
    publish(model, encoded / "tokenizer", Path("models/trained"))


if __name__ == "__main__":
    main()
