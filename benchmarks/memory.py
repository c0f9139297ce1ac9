"""The memory that preflight plans, beside what a stage takes: the tables of docs/large-models.md.

    python -m benchmarks.memory --model models/base --table new

Every row is a process of its own, the stage as DVC runs it, on a CPU and made-up text: two
optimizer steps, their checkpoints and what publishing does, or all measures of some dialogues. The
models but SmolLM2 are random ones.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from benchmarks.memory_rows import (
    ADAPTERS,
    CHECKPOINTING,
    FEW_BITS,
    MODELS,
    NF4,
    SMOLLM2,
    TABLES,
    Row,
)
from benchmarks.train import ROOT, run, stage_command
from tools.preflight.fit import this_machine
from tools.preflight.plan import CLOSE, Machine, make_plan, with_values
from tuning.language_model.device import Device
from tuning.run.params import Params, load_params
from tuning.tokens.templates import prepare_tokenizer
from tuning.windows import WindowWriter

SHORT = {
    "num_threads": 1,
    "train.max_steps": 2,
    "train.gradient_accumulation_steps": 1,
    "train.torch_compile": False,
    "train.eval_windows": 8,
    "runtime.checkpoint_minutes": 0.01,
    "score.also": [],
    "score.max_dialogues": 24,
    "score.max_new_tokens": 20,
}
NUM_WINDOWS = 200
WORDS_PER_TURN = {"short": 8, "long": 40}
TURNS = {"short": 4, "long": 16}
SHARDED = {"runtime.shard_model": True}
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
    parser.add_argument("--table", choices=TABLES, default="known", help="which configurations")
    parser.add_argument("--rows", type=int, nargs="+", help="their numbers, from 1; all by default")
    parser.add_argument("--recipes", action="store_true", help="plan large models on GPUs instead")
    args = parser.parse_args()
    if args.recipes:
        return plan_recipes()
    if args.model is None or not (args.model / "config.json").exists():
        sys.exit("--model: wanted the folder of SmolLM2, such as models/base after dvc repro fetch")
    print("| | plan, GB | measured, GB | plan / measured |\n|---|---|---|---|", flush=True)
    for number, row in enumerate(TABLES[args.table], start=1):
        if args.rows is None or number in args.rows:
            planned, measured = (each / 1e9 for each in plan_and_measure(row, args.model.resolve()))
            ratio = planned / measured
            print(f"| {row.name} | {planned:.2f} | {measured:.2f} | {ratio:.2f} |", flush=True)


def plan_and_measure(row: Row, smollm2: Path) -> tuple[float, float]:
    """Return the bytes that a row is going to take by the plan, and those that it took."""
    stage = "score" if row.scores else "train"
    command = [
        part.replace("${key}", "base").replace("${item}", "models/base")
        for part in stage_command(stage)
    ]
    with tempfile.TemporaryDirectory() as name:
        # Linux counts into a process's peak that of the one that started it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            planned = other.submit(prepare_and_plan, Path(name), smollm2, row).result()
        _, measured = run(Path(name), stage, command)
    return planned, 1e9 * measured


def prepare_and_plan(folder: Path, smollm2: Path, row: Row) -> float:
    """Lay out what the stage reads; return the bytes that it is going to take by the plan."""
    params = prepare(folder, smollm2, row)
    config = AutoConfig.from_pretrained(folder / "models/base")
    plan = make_plan(config, params, this_machine(params))
    return plan.score if row.scores else plan.train


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
    """Lay out what the stages read: parameters, the model, windows, dialogues."""
    params = with_values(load_params(ROOT / "params.yaml"), SHORT | row.changes)
    YAML(typ="safe").dump(params.model_dump(), folder / "params.yaml")
    (folder / "requirements.lock").symlink_to(ROOT / "requirements.lock")
    base, encoded, prepared = (
        folder / name for name in ("models/base", "data/encoded", "data/prepared")
    )
    for path in (base, encoded / "validation", prepared, folder / "evaluation_sets"):
        path.mkdir(parents=True)
    for file in smollm2.iterdir():
        if row.model == SMOLLM2 or "token" in file.name or "chat" in file.name:
            shutil.copyfile(file, base / file.name)
    num_ids = json.loads((smollm2 / "config.json").read_bytes())["vocab_size"]
    if row.model != SMOLLM2:
        config = MODELS[row.model]
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
        num_ids = min(num_ids, config.vocab_size)
        cut_tokenizer(base / "tokenizer.json", num_ids)
    prepare_tokenizer(
        base, encoded / "tokenizer", 2, choice=params.encoding.template, has_roles=False
    )
    for where in (encoded, encoded / "validation"):
        write_windows(where, params.encoding.max_length, num_ids)
    if row.scores:
        number = params.score.max_dialogues
        assert number is not None
        write_dialogues(prepared / "val.jsonl", row.scores, number)
        write_dialogues(prepared / "example.jsonl", row.scores, 1)
    return params


def cut_tokenizer(file: Path, num_tokens: int) -> None:
    """Keep a tokenizer's first tokens: of byte pairs, those that were merged first."""
    content = json.loads(file.read_bytes())
    model = content["model"]
    model["vocab"] = {text: id for text, id in model["vocab"].items() if id < num_tokens}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    file.write_text(json.dumps(content), encoding="utf-8")


def write_windows(folder: Path, max_length: int, num_ids: int) -> None:
    """Write windows of random ids, of which the last three quarters are targets."""
    random_numbers = np.random.default_rng(1)
    with WindowWriter(folder) as writer:
        for length in random_numbers.integers(max_length // 2, max_length + 1, NUM_WINDOWS):
            ids = random_numbers.integers(20, num_ids, length, dtype=np.int32)
            writer.add(ids, np.arange(length) >= length // 4, [length])


def write_dialogues(file: Path, length: str, number: int) -> None:
    """Write dialogues of two people, made of words of an English text."""
    text = (ROOT / "evaluation_sets/english.jsonl").read_text(encoding="utf-8")
    words = sorted({word for word in text.split() if word.isalpha()})
    drawn = random.Random(1)
    with file.open("w", encoding="utf-8") as out:
        for index in range(number):
            turns = [
                {
                    "speaker": "AB"[turn % 2],
                    "utterance": " ".join(drawn.choices(words, k=WORDS_PER_TURN[length])),
                }
                for turn in range(TURNS[length])
            ]
            out.write(json.dumps({"dialogue_id": str(index), "turns": turns}) + "\n")


if __name__ == "__main__":
    main()
