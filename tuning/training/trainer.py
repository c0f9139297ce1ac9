"""The training loop: AdamW on packed rows, continued from the newest checkpoint.

A step is a function of the weights, the moments, the seed and its number; so a run that was killed
ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from tuning.language_model.device import Device, peak_memory_gb
from tuning.processes.group import Processes
from tuning.run.errors import UserError, first_line
from tuning.training import snapshot
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.gradients import GradientSums, clip_gradients
from tuning.training.objective import Objective
from tuning.training.optimizer import Optimizer
from tuning.training.passes import Passes
from tuning.training.progress import Progress, Timing
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule

if TYPE_CHECKING:
    from tuning.run.params import TrainParams

WRITTEN_BEHIND = ("cuda",)
"""Kinds of devices that train on while a checkpoint is written, from a copy on the host."""
TRAINING_TO_SAVING = 20
"""Between two saves training goes on for at least so many times as long as one takes."""
SHORT_SAVE = 5.0
"""Seconds of a save for which that does not hold: it may come as often as it is asked for."""
LOG_COLUMNS = ("step", "epoch", "loss", "num_target_tokens", "learning_rate", "grad_norm")
VALIDATION_LOSS = "validation_loss"
_NOT_FINITE = (
    "Nothing was published. Lower train.learning_rate, add train.warmup_steps, or set "
    "train.mixed_precision to no."
)
Log = list[dict[str, float]]


@dataclass(frozen=True)
class TrainResult:
    """The results of one run of training, besides the weights."""

    log: Log
    """One entry per optimizer step, ``LOG_COLUMNS``; loss is nats per target token in that step,
    weighted as the data says.
    Where the validation loss was measured, also that; no norm where fp16 overflowed."""
    best_step: int | None
    """The step of the lowest validation loss."""
    timing: Timing


def fine_tune(
    objective: Objective,
    rows: PackedRows,
    train: TrainParams,
    *,
    seed: int,
    device: Device,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    checkpoints: CheckpointFolder | None,
    checkpoint_minutes: float,
    validation: PackedRows | None = None,
    on_step: Callable[[int, dict[str, float]], None] = lambda _step, _metrics: None,
) -> TrainResult:
    """Train the objective's model in place, from the newest checkpoint if there is one.

    Args:
        objective: The objective that is lowered; its model is on its device.
        rows: The training set.
        train: Hyperparameters.
        seed: Seed of row order and dropout.
        device: From ``choose_device``.
        processes: This process among those of the run; each takes a part of every step's rows.
        checkpoints: Where to save and what to continue from; None in all but the main process.
        checkpoint_minutes: Longest time between two saves.
        validation: Rows of the validation loss, measured every ``train.eval_steps``.
        on_step: Called in the main process after each step with its number and its metrics.

    Raises:
        UserError: the loss or the gradient is no longer finite, or memory ran out.
    """
    objective.train()
    trainer = _Trainer(objective, rows, train, seed=seed, device=device, processes=processes)
    try:
        return trainer.run(checkpoints, checkpoint_minutes, validation, on_step)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(trainer.passes.rows_per_pass) from error
    except RuntimeError as error:
        if "alloc" in str(error) and "memory" in str(error):
            raise _out_of_memory(trainer.passes.rows_per_pass) from error
        raise
    finally:
        trainer.wait_for_writing()


class _Trainer:
    def __init__(
        self,
        objective: Objective,
        rows: PackedRows,
        train: TrainParams,
        *,
        seed: int,
        device: Device,
        processes: Processes,
    ) -> None:
        self.objective = objective
        self.rows = rows
        self.train = train
        self.device = device
        self.processes = processes
        self.passes = Passes(
            objective=objective,
            train=train,
            max_length=rows.max_length,
            device=device,
            processes=processes,
        )
        self.schedule = Schedule(train, num_rows=len(rows), seed=seed)
        self.parameters = [each for each in objective.parameters() if each.requires_grad]
        self.gradient_sums = GradientSums(self.parameters, processes)
        self.optimizer = Optimizer(objective, train)
        self.scaler = torch.amp.GradScaler(device.kind, enabled=device.precision == "fp16")
        self.log: Log = []
        self._is_whole = True  # weights and moments are those after the last step in the log
        self._last_saved = 0
        self._seconds_of_save = 0.0
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._being_written: Future[bool] | None = None

    def run(
        self,
        checkpoints: CheckpointFolder | None,
        checkpoint_minutes: float,
        validation: PackedRows | None,
        on_step: Callable[[int, dict[str, float]], None],
    ) -> TrainResult:
        """Make all steps that no earlier process has made and saved."""
        first_step = self._continue(checkpoints)
        num_steps = self.schedule.num_steps
        progress = Progress(
            first_step=first_step,
            num_steps=num_steps,
            shown=self.processes.is_main,
            peak_memory=partial(peak_memory_gb, self.device.kind),
        )
        last_save = time.monotonic()
        for step in range(first_step, num_steps):
            if self._has_stopped_early():
                break
            try:
                entry = self._exact_step(step)
            except KeyboardInterrupt:
                self._save_before_the_end(step, checkpoints)
                raise
            self.log.append(entry)
            self._is_whole = True
            progress.step(
                entry["loss"],
                int(entry["num_target_tokens"]),
                len(self.schedule.rows(step)) * self.rows.max_length,
            )
            number = step + 1
            is_best = False
            if validation is not None and self._validates(number):
                entry[VALIDATION_LOSS] = self._validation_loss(validation)
                is_best = self._best_step() == number
                progress.say(f"step {number}: validation loss {entry[VALIDATION_LOSS]:.4f}")
            if self.processes.is_main:
                on_step(number, entry | {"tokens_per_second": progress.timing.tokens_per_second})
            seconds = self._seconds_of_save
            rest = TRAINING_TO_SAVING * seconds if seconds > SHORT_SAVE else 0
            is_due = time.monotonic() - last_save > max(60 * checkpoint_minutes, rest)
            needs_best = is_best and self.train.load_best_model_at_end
            if self.processes.share(is_due or needs_best):
                self._save(number, checkpoints)
                last_save = time.monotonic()
        progress.close()
        self.wait_for_writing()
        best_step = self._best_step()
        if self.train.load_best_model_at_end and best_step not in (None, len(self.log)):
            self._load_weights(best_step, checkpoints)
        return TrainResult(self.log, best_step, progress.timing)

    def _exact_step(self, step: int) -> dict[str, float]:
        """Make a step so that it can be made again to the same bits, or say that it cannot."""
        try:
            return self._step(step)
        except RuntimeError as error:
            if not self._is_whole or "deterministic implementation" not in str(error):
                raise
            print(
                f"train: {first_line(error).split(' does not')[0]} adds in no fixed order on this "
                "device: a run that was stopped will not end with the same bits.",
                file=sys.stderr,
            )
            torch.use_deterministic_algorithms(True, warn_only=True)
            self.optimizer.zero_grad()
            return self._step(step)

    def _step(self, step: int) -> dict[str, float]:
        """Make one optimizer step (numbered from 0); return its metrics."""
        indices = self.schedule.rows(step)
        num_targets = sum(self.rows.num_targets(index) for index in indices)  # of all processes
        total_weight = sum(self.rows.total_weight(index) for index in indices)
        torch.manual_seed(self.schedule.random_seed(step, self.processes.rank))
        summed = torch.zeros((), device=self.objective.model.device)
        last = self.passes.num_batches(indices) - 1
        for number, batch in enumerate(self.passes.batches(self.rows, indices)):
            if number == last:
                self.gradient_sums.begin_last_pass()
            with self.passes.autocast():
                total, _ = self.objective(**batch)
            loss = total / total_weight
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            summed += loss.detach()
        self.gradient_sums.finish()
        optimizer = cast("torch.optim.Optimizer", self.optimizer)  # of its form
        self.scaler.unscale_(optimizer)
        norm = clip_gradients(self.parameters, self.train.max_grad_norm)
        loss_of_step = self.processes.total(summed)
        grad_norm = float(norm)
        may_skip = self.device.precision == "fp16"  # loss scaling leaves out a step that overflows
        if not math.isfinite(loss_of_step) or not (math.isfinite(grad_norm) or may_skip):
            raise UserError(
                f"step {step + 1}: the loss is {loss_of_step} and the gradient's norm "
                f"{grad_norm}. {_NOT_FINITE}"
            )
        rate = self.schedule.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._is_whole = False
        self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        entry = {
            "step": step + 1,
            "epoch": self.schedule.epoch(step),
            "loss": loss_of_step,
            "num_target_tokens": num_targets,
            "learning_rate": rate,
        }
        return entry | {"grad_norm": grad_norm} if math.isfinite(grad_norm) else entry

    def _validation_loss(self, validation: PackedRows) -> float:
        loss = self.passes.mean_loss(validation)
        if not math.isfinite(loss):
            raise UserError(f"step {len(self.log)}: the validation loss is {loss}. {_NOT_FINITE}")
        return loss

    def _validates(self, number: int) -> bool:
        every = self.train.eval_steps
        return every is not None and (number % every == 0 or number == self.schedule.num_steps)

    def _best_step(self) -> int | None:
        measured = [entry for entry in self.log if VALIDATION_LOSS in entry]
        if not measured:
            return None
        return int(min(measured, key=lambda entry: entry[VALIDATION_LOSS])["step"])

    def _has_stopped_early(self) -> bool:
        patience = self.train.early_stopping_patience
        if patience is None:
            return False
        best_step = self._best_step()
        if best_step is None:
            return False
        later = [entry for entry in self.log[best_step:] if VALIDATION_LOSS in entry]
        return len(later) >= patience

    def _continue(self, checkpoints: CheckpointFolder | None) -> int:
        """Take up the newest checkpoint; return the number of steps that are made."""
        newest = checkpoints.newest() if checkpoints is not None else None
        step, state = self.processes.share((newest.step, newest.state) if newest else (0, {}))
        if step:
            if self.processes.is_main:
                print(f"train: continuing from checkpoint-{step}", flush=True)
            tensors = newest.tensors if newest else None
            snapshot.restore(self.objective, self.optimizer, tensors, self.processes)
            self.scaler.load_state_dict(state["scaler"])
            self.log = state["log"]
            self._last_saved = int(step)
        return int(step)

    def _save(self, step: int, checkpoints: CheckpointFolder | None) -> None:
        """Save a step; on a device with a memory of its own, the next one need not wait for it."""
        started = time.monotonic()
        self.wait_for_writing()
        goes_on = self.device.kind in WRITTEN_BEHIND
        tensors = snapshot.take(self.objective, self.optimizer, self.processes, copy=goes_on)
        if checkpoints is not None:
            best_step = self._best_step() if self.train.load_best_model_at_end else None
            state: dict[str, Any] = {"log": [*self.log], "scaler": self.scaler.state_dict()}
            keep = [best_step] if best_step else []

            def write() -> bool:
                saved = checkpoints.save(step, tensors, state, keep=keep)
                self._seconds_of_save = time.monotonic() - started
                return saved

            self._being_written = self._writer.submit(write)
            self._last_saved = step
            if goes_on and best_step != step:
                return
            if not self.wait_for_writing() and best_step == step:
                raise UserError(
                    f"the best weights so far (step {step}) could not be saved, and "
                    "train.load_best_model_at_end needs them. Free some space and run the same "
                    "command again."
                )

    def wait_for_writing(self) -> bool:
        """Wait for the checkpoint that is being written, if one is; return whether it was saved."""
        being_written, self._being_written = self._being_written, None
        return being_written is None or being_written.result()

    def _save_before_the_end(self, step: int, checkpoints: CheckpointFolder | None) -> None:
        """Save the steps made so far, unless weights are being changed or others have to help."""
        if step > self._last_saved and self._is_whole and self.processes.size == 1:
            print(f"\ntrain: saving the {step:,} steps made so far", file=sys.stderr)
            self._save(step, checkpoints)

    def _load_weights(self, step: int | None, checkpoints: CheckpointFolder | None) -> None:
        assert step is not None
        checkpoint = checkpoints.load(step) if checkpoints is not None else None
        tensors = checkpoint.tensors if checkpoint else None
        snapshot.restore_weights(self.objective, tensors, self.processes)


def _out_of_memory(rows_per_pass: int) -> UserError:
    fewer = (
        f"Lower train.batch_size to {rows_per_pass // 2} (and raise "
        "train.gradient_accumulation_steps so that their product stays: the result is the same but "
        "for rounding). If that is not enough, lower"
        if rows_per_pass > 1
        else "Lower"
    )
    return UserError(
        f"out of memory. {fewer} encoding.max_length, or set train.gradient_checkpointing. "
        "Nothing was published."
    )
