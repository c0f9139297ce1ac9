"""The rows and the learning rate of each step, as functions of the seed and the step alone.

So a run that continues needs no state of samplers, schedulers or random generators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from tuning.run.params import TrainParams


class Schedule:
    """The plan of a whole run, computed, never stored."""

    def __init__(self, train: TrainParams, *, num_rows: int, seed: int) -> None:
        """Plan ``train.epochs`` passes over the rows, or ``train.max_steps`` steps."""
        self._num_rows = num_rows
        self._seed = seed
        self._rows_per_step = train.batch_size * train.gradient_accumulation_steps
        self.steps_per_epoch = math.ceil(num_rows / self._rows_per_step)
        self.num_steps = train.max_steps or train.epochs * self.steps_per_epoch
        warmup = train.warmup_steps
        num_warmup_steps = math.ceil(warmup * self.num_steps) if warmup < 1 else int(warmup)
        self._order = lru_cache(1)(self._shuffled)
        self._peak = train.learning_rate
        self._shape = train.lr_scheduler_type
        self._num_warmup_steps = num_warmup_steps

    def learning_rate(self, step: int) -> float:
        """The learning rate of the update that ``step`` (from 0) makes."""
        return self._peak * self._share(step)

    def _share(self, step: int) -> float:
        """Return the share of the peak, as transformers' schedulers of these names have it.

        They are not asked, for what they load with them takes a second.
        """
        warmup, rest = self._num_warmup_steps, self.num_steps - self._num_warmup_steps
        if step < warmup:
            return step / warmup
        if self._shape == "linear":
            return max(0.0, (self.num_steps - step) / max(1, rest))
        if self._shape == "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * ((step - warmup) / max(1, rest)))))
        return 1.0

    def epoch(self, step: int) -> float:
        """Passes over the rows when the step has been made."""
        return (step + 1) / self.steps_per_epoch

    def rows(self, step: int) -> list[int]:
        """The step's rows, in the order of its epoch; an epoch's last step may have fewer."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self._rows_per_step
        return self._order(epoch)[start : start + self._rows_per_step]

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(_derived(self._seed, "order", epoch))
        order: list[int] = torch.randperm(self._num_rows, generator=generator).tolist()
        return order

    def random_seed(self, step: int, rank: int) -> int:
        """The seed of dropout in one step of one process."""
        return _derived(self._seed, "dropout", step, rank)


def _derived(seed: int, purpose: str, *numbers: int) -> int:
    """Derive a seed of its own for a purpose and its numbers, so that streams are independent."""
    sequence = np.random.SeedSequence([seed, *purpose.encode(), *numbers])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
