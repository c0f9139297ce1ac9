"""Rows read by a model a few at a time: what optimizer steps and validations have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tuning.language_model.device import Device
from tuning.processes.group import Processes
from tuning.training.objective import Objective
from tuning.training.rows import PackedRows

if TYPE_CHECKING:
    from tuning.run.params import TrainParams

TOKENS_PER_PASS = 2048
"""A CPU takes a batch in passes of so many tokens, or of one row: with more its products are no
faster, and what a pass keeps for its gradients takes the more memory."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How rows reach a model."""

    objective: Objective
    """What is computed of them; its model is on its device."""
    train: TrainParams
    max_length: int
    """Tokens of a row."""
    device: Device
    processes: Processes
    """This process among those that take a part of the rows each."""

    @property
    def rows_per_pass(self) -> int:
        """Rows per pass: this process's rows of a step, in the fewest equal batches that fit."""
        most = self.train.batch_size
        if self.device.kind == "cpu":
            most = min(most, max(1, TOKENS_PER_PASS // self.max_length))
        rows_per_step = self.train.batch_size * self.train.gradient_accumulation_steps
        rows_here = math.ceil(rows_per_step / self.processes.size)
        return math.ceil(rows_here / math.ceil(rows_here / most))

    def num_batches(self, indices: Sequence[int]) -> int:
        """Return in how many batches every process takes its part of some rows."""
        return math.ceil(math.ceil(len(indices) / self.processes.size) / self.rows_per_pass)

    def batches(self, rows: PackedRows, indices: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        """Yield this process's part of some rows, in equally many batches in every process."""
        mine = indices[self.processes.rank :: self.processes.size]
        size = self.rows_per_pass
        for number in range(self.num_batches(indices)):
            start = number * size
            batch = rows.collate([rows[index] for index in mine[start : start + size]], size)
            yield {name: tensor.to(self.objective.model.device) for name, tensor in batch.items()}

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the model is run."""
        if self.device.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.kind, dtype=self.device.dtype)

    @torch.no_grad()
    def mean_loss(self, rows: PackedRows) -> float:
        """The loss per target over the rows, summed and divided once; every process calls this."""
        self.objective.eval()
        summed = torch.zeros((), dtype=torch.float64, device=self.objective.model.device)
        total_weight = torch.zeros_like(summed)
        for batch in self.batches(rows, range(len(rows))):
            with self.autocast():
                total, weight = self.objective(**batch)
            summed += total
            total_weight += weight
        self.objective.train()
        return self.processes.total(summed) / self.processes.total(total_weight)
