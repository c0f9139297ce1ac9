"""The plan of a run: which rows a step takes, at which learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.tiny_model import SMALL_TRAIN
from tuning.training.schedule import Schedule

DEFAULTS = SMALL_TRAIN.model_copy(update={"learning_rate": 0.5, "epochs": 3})


def plan(*, num_rows: int = 10, seed: int = 7, **changes: Any) -> Schedule:
    return Schedule(DEFAULTS.model_copy(update=changes), num_rows=num_rows, seed=seed)


def rates(**changes: Any) -> list[float]:
    """Learning rates of ten steps, as shares of the peak."""
    schedule = plan(max_steps=10, **changes)
    return [schedule.learning_rate(step) / 0.5 for step in range(schedule.num_steps)]


def epoch_rows(schedule: Schedule, epoch: int) -> list[int]:
    steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
    return [row for step in steps for row in schedule.rows(step)]


@pytest.mark.parametrize(
    ("shape", "warmup_steps", "expected"),
    [
        ("constant", 0, [1] * 10),
        ("constant", 4, [0, 1 / 4, 2 / 4, 3 / 4, *[1] * 6]),
        ("linear", 0, [1 - step / 10 for step in range(10)]),
        ("linear", 2, [0, 1 / 2, *(1 - step / 8 for step in range(8))]),
        ("cosine", 0, [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]),
        ("cosine", 2, [0, 1 / 2, *((1 + math.cos(math.pi * step / 8)) / 2 for step in range(8))]),
    ],
)
def test_the_learning_rate_is_its_formula(
    shape: str, warmup_steps: float, expected: list[float]
) -> None:
    assert rates(lr_scheduler_type=shape, warmup_steps=warmup_steps) == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_a_warm_up_below_one_is_a_share_of_all_steps(shape: str) -> None:
    """Rounded up: 0.35 of ten steps are four."""
    share = rates(lr_scheduler_type=shape, warmup_steps=0.35)
    assert share == rates(lr_scheduler_type=shape, warmup_steps=4)
    assert share.index(max(share)) == 4
    assert rates(lr_scheduler_type=shape, warmup_steps=1)[:2] == [0, 1]  # one step, not all


def test_an_epoch_is_every_row_once_and_its_last_step_takes_what_is_left() -> None:
    schedule = plan()
    assert schedule.num_steps == 3 * schedule.steps_per_epoch == 9
    assert [len(schedule.rows(step)) for step in range(9)] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(epoch_rows(schedule, epoch)) == list(range(10))
    assert [schedule.epoch(step) for step in (2, 5, 8)] == [1, 2, 3]


def test_the_order_differs_between_epochs_and_seeds_and_is_not_that_of_the_file() -> None:
    orders = [
        epoch_rows(plan(num_rows=50, seed=seed), e) for seed in (0, 1, 2**32 - 1) for e in range(3)
    ]
    orders.append(list(range(50)))
    assert len({tuple(order) for order in orders}) == len(orders)
    assert epoch_rows(plan(num_rows=50, seed=1), 2) == orders[5]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 32), (8, 4), (4, 8), (32, 1)])
def test_a_step_has_the_same_rows_however_it_is_divided(batch_size: int, accumulation: int) -> None:
    split = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    schedule, whole = plan(num_rows=70, **split), plan(num_rows=70, batch_size=16)
    assert schedule.num_steps == whole.num_steps == 9
    for step in range(9):
        assert schedule.rows(step) == whole.rows(step)


def test_the_order_does_not_depend_on_the_rows_per_step() -> None:
    assert epoch_rows(plan(batch_size=1), 1) == epoch_rows(plan(batch_size=5), 1)


@pytest.mark.parametrize("max_steps", [1, 2, 3, 7, 20])
def test_max_steps_replaces_epochs(max_steps: int) -> None:
    """Below an epoch (three steps), and beyond the three that ``epochs`` would give."""
    schedule, unlimited = plan(max_steps=max_steps), plan(epochs=7)
    assert schedule.num_steps == max_steps
    assert [schedule.rows(s) for s in range(max_steps)] == [
        unlimited.rows(s) for s in range(max_steps)
    ]
    assert schedule.epoch(max_steps - 1) == max_steps / 3
    assert schedule.learning_rate(max_steps - 1) == pytest.approx(0.5 / max_steps)


def test_fewer_rows_than_a_step_holds_are_one_step_an_epoch() -> None:
    schedule = plan(num_rows=3)
    assert schedule.num_steps == 3
    assert [sorted(schedule.rows(step)) for step in range(3)] == [[0, 1, 2]] * 3


def test_every_step_of_every_process_has_its_own_random_seed() -> None:
    seeds = [
        plan(seed=seed).random_seed(step, rank)
        for seed in (0, 1)
        for step in range(50)
        for rank in range(4)
    ]
    assert len(set(seeds)) == len(seeds)
    assert seeds[-1] == plan(seed=1).random_seed(49, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)  # what torch.manual_seed takes
