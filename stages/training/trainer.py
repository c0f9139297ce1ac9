"""The Trainer of transformers on packed rows: what it logs, when it saves, when it must stop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from stages.device import Device
from stages.encoding.dataset import PackedRows
from stages.errors import UserError
from stages.params import TrainParams
from stages.training.checkpoint import CheckpointFolder
from stages.training.loss import attach_packed_loss

LOG_COLUMNS = ("step", "epoch", "loss", "num_target_tokens", "learning_rate", "grad_norm")


@dataclass
class Timing:
    """Wall-clock figures of this process; a resumed run covers only its own steps."""

    first_step_seconds: float = 0.0
    """From the start of training to the end of the first step: mostly compilation."""
    seconds: float = 0.0
    """All steps, checkpoints included."""
    tokens_per_second: float = 0.0
    """Target tokens over time, from the second step on."""
    num_steps: int = 0
    """Optimizer steps in this process."""


@dataclass(frozen=True)
class TrainResult:
    """What one run of training leaves."""

    log: list[dict[str, float]]
    """One entry per optimizer step, ``LOG_COLUMNS``; loss is nats per target token in that step."""
    timing: Timing


def fine_tune(
    model: PreTrainedModel,
    rows: PackedRows,
    train: TrainParams,
    *,
    seed: int,
    device: Device,
    checkpoints: CheckpointFolder,
    checkpoint_minutes: float,
    on_step: Callable[[int, dict[str, float]], None],
) -> TrainResult:
    """Train in place, from the newest checkpoint if there is one.

    Args:
        model: In float32; its forward becomes the packed loss.
        rows: The training set.
        train: Hyperparameters.
        seed: Of row order and dropout.
        device: From ``choose_device``.
        checkpoints: Where to save and what to continue from.
        checkpoint_minutes: Longest time between two saves.
        on_step: Called after each optimizer step with its number and its metrics.

    Raises:
        UserError: the loss or the gradient is no longer finite.
    """
    attach_packed_loss(model, compiled=device.compiled)
    arguments = TrainingArguments(
        output_dir=str(checkpoints.path),
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        num_train_epochs=train.epochs,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=device.precision == "bf16",
        fp16=device.precision == "fp16",
        use_cpu=device.kind == "cpu",
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # _Watch asks for saves, by the clock
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=device.kind == "cuda",
        disable_tqdm=True,
        report_to="none",
    )
    watch = _Watch(checkpoints, checkpoint_minutes, on_step)
    trainer = _CountingTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=partial(rows.collate, batch_size=train.batch_size),
        callbacks=[watch],
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    newest = checkpoints.newest()
    if newest is not None:
        print(f"train: continuing from {newest.name}", flush=True)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    log = [
        {column: entry[column] for column in LOG_COLUMNS}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return TrainResult(log, watch.timing)


class _CountingTrainer(Trainer):
    """A Trainer whose log says how many targets each step had, so that losses can be averaged."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The step's batches and their targets; the latter are kept for the log."""
        batches, num_target_tokens = super().get_batch_samples(*args, **kwargs)
        assert num_target_tokens is not None, "rows always have labels"
        self.num_target_tokens = int(num_target_tokens)
        return batches, num_target_tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's metrics with its count of targets."""
        if "loss" in logs:
            logs["num_target_tokens"] = self.num_target_tokens
        super().log(logs, start_time)


@dataclass
class _Watch(TrainerCallback):
    """Progress, metrics, checkpoints by the clock, and a stop at the first non-finite loss."""

    checkpoints: CheckpointFolder
    checkpoint_minutes: float
    report: Callable[[int, dict[str, float]], None]
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self._start = self._first_end = self._last_save = time.monotonic()
        self._num_target_tokens = 0.0  # since the first step's end
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._start = self._last_save = time.monotonic()
        self._first_step = state.global_step + 1
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            mininterval=0 if sys.stderr.isatty() else 30,
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        step = state.global_step
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
            raise UserError(
                f"step {step}: the loss is {logs['loss']} and the gradient's norm "
                f"{logs['grad_norm']}. Nothing was published. Lower train.learning_rate, add "
                "train.warmup_steps, or set train.mixed_precision to no."
            )
        now = time.monotonic()
        self.timing.num_steps += 1
        self.timing.seconds = now - self._start
        if step == self._first_step:
            self.timing.first_step_seconds = self.timing.seconds
            self._first_end = now
        else:
            self._num_target_tokens += logs["num_target_tokens"]
            self.timing.tokens_per_second = self._num_target_tokens / (now - self._first_end)
        metrics = {column: logs[column] for column in LOG_COLUMNS if column in logs}
        if self._bar is not None:
            speed = f"{self.timing.tokens_per_second:.0f}"
            self._bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed} tokens/s", refresh=False)
            self._bar.update()
        self.report(step, metrics | {"tokens_per_second": self.timing.tokens_per_second})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_save = time.monotonic() - self._last_save > 60 * self.checkpoint_minutes
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.checkpoints.complete(state.global_step)
        self._last_save = time.monotonic()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
