"""One peer of this project's training, in this process, as its users get it.

    python -m benchmarks.train_peers trl --model models/base --dialogues train.jsonl --out run.json

Started by ``benchmarks.train``, by an interpreter that has what the peer needs. The first speaker
of a dialogue is the user, the other the assistant, in the tokenizer's own chat template; a dialogue
that is longer than ``max_length`` is cut there. Every token but a dialogue's first is a target.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tuning.dialogue import Dialogue, read_dialogues
from tuning.run.process import die_with_parent

PEERS = ("trl", "trl-packed", "trainer", "trainer-compiled")
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
"""The chat template of a tokenizer that has none, such as GPT-2's."""

Messages = list[dict[str, str]]


def main() -> None:
    """Train, save the model, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--model", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--dialogues", type=Path, required=True, help="as prep writes them, JSONL")
    parser.add_argument("--max-length", type=int, default=512, help="tokens per row")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass")
    parser.add_argument("--accumulation", type=int, default=1, help="forward passes per step")
    parser.add_argument("--steps", type=int, help="optimizer steps; one epoch if not given")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    args = parser.parse_args()
    options = {
        "output_dir": str(args.out.with_suffix(".model")),
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),  # bf16 is refused without it
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": args.accumulation,
        "num_train_epochs": 1,
        "max_steps": args.steps or -1,
        # Of the measurement: a loss for every step, and no checkpoints or trackers
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(args.model)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    chats = [as_messages(dialogue) for dialogue in read_dialogues(args.dialogues)]
    encoded = [encode(tokenizer, chat) for chat in chats]
    watch = Watch()
    if args.peer.startswith("trl"):
        options |= {"max_length": args.max_length}
        options |= {"packing": True} if args.peer == "trl-packed" else {}
        trainer = trl_trainer(args.model, tokenizer, chats, options)
    else:
        options |= {"torch_compile": True} if args.peer == "trainer-compiled" else {}
        cut = [ids[: args.max_length] for ids in encoded]
        trainer = plain_trainer(args.model, tokenizer, cut, options)
    watch.attach(trainer)
    trainer.train()
    trainer.save_model()

    rows: Any = trainer.train_dataset
    num_kept = sum(len(row["input_ids"]) for row in rows)
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    steps = [step | {"loss": loss} for step, loss in zip(watch.steps, losses, strict=True)]
    figures = {
        "steps": steps,
        "num_target_tokens": num_kept - len(chats),
        "share_cut": 1 - num_kept / sum(map(len, encoded)),
    }
    args.out.write_text(json.dumps(figures))


def as_messages(dialogue: Dialogue) -> Messages:
    """Roles by order of first appearance: user, assistant, and again."""
    roles = {name: ("user", "assistant")[i % 2] for i, name in enumerate(dialogue.speakers)}
    return [{"role": roles[turn.speaker], "content": turn.utterance} for turn in dialogue.turns]


def encode(tokenizer: PreTrainedTokenizerBase, chat: Messages) -> list[int]:
    """Token ids of a whole dialogue in the chat template."""
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def trl_trainer(
    model: Path, tokenizer: PreTrainedTokenizerBase, chats: list[Messages], options: dict[str, Any]
) -> Trainer:
    """TRL's SFTTrainer, told nothing but ``options``."""
    trl, datasets = map(importlib.import_module, ("trl", "datasets"))
    trainer: Trainer = trl.SFTTrainer(
        str(model),
        args=trl.SFTConfig(**options),
        train_dataset=datasets.Dataset.from_list([{"messages": chat} for chat in chats]),
        processing_class=tokenizer,
    )
    return trainer


def plain_trainer(
    model: Path, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], options: dict[str, Any]
) -> Trainer:
    """The Trainer of transformers; a batch is padded to its longest row."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset: Any = [{"input_ids": ids, "labels": ids} for ids in rows]
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=TrainingArguments(**options),
        train_dataset=dataset,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


class Watch(TrainerCallback):
    """Seconds and tokens of every optimizer step."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.steps: list[dict[str, float]] = []
        self.num_target_tokens = self.num_processed_tokens = 0

    def attach(self, trainer: Trainer) -> None:
        """Watch this trainer's steps, and the batches that they get."""
        trainer.add_callback(self)
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
            self.num_target_tokens += int((inputs["labels"][:, 1:] != -100).sum())
            self.num_processed_tokens += inputs["input_ids"].numel()
            return step(model, inputs, *args, **kwargs)

        vars(trainer)["training_step"] = counted

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the seconds and tokens of the step that is done."""
        now = time.perf_counter()
        self.steps.append(
            {
                "seconds": now - self.last,
                "num_target_tokens": self.num_target_tokens,
                "num_processed_tokens": self.num_processed_tokens,
            }
        )
        self.last = now
        self.num_target_tokens = self.num_processed_tokens = 0


if __name__ == "__main__":
    die_with_parent()
    main()
