"""What is read with one model by several processes: each reads a part, and all get what came of it.

A model that the processes hold in parts needs all of them in every pass, for each has weights that
the others need. So one that has read its part goes on with passes of which nothing comes until the
last is done; nobody counts passes beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from transformers import PreTrainedModel

from tuning.language_model.loading import decoder_blocks
from tuning.processes.group import Processes
from tuning.processes.sharding import Spread, shard

Item = TypeVar("Item")
Number = TypeVar("Number", bound=Hashable)
Found = TypeVar("Found")
Arguments = ParamSpec("Arguments")

_PROCESSES = "_processes"
_IN_STEP = "_in_step"


def load_among(
    processes: Processes,
    load: Callable[[str], PreTrainedModel],
    device: str,
    *,
    in_parts: bool,
) -> PreTrainedModel:
    """Load a model to be read by several processes.

    Args:
        processes: This process among those that read.
        load: Loads it to a kind of device.
        device: The kind of device that reads it.
        in_parts: Whether each process is to hold only a part, if there are several.
    """
    if in_parts and processes.size > 1:
        spread = Spread(lambda: (load("cpu"), None), processes)
        model = spread.model
        shard(model, decoder_blocks(model))
        spread.fill(model, device)
        setattr(model, _IN_STEP, _InStep(model, processes))
    else:
        model = load(device)
    setattr(model, _PROCESSES, processes)
    return model


def inference(
    read: Callable[Arguments, Found],
) -> Callable[Arguments, Found]:
    """Let a function whose first argument is a model compute without gradients.

    In torch's inference mode; weights that are gathered for a pass do not go with it.
    """

    @wraps(read)
    def without_gradients(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Found:
        with torch.no_grad() if hasattr(args[0], _IN_STEP) else torch.inference_mode():
            return read(*args, **kwargs)

    return without_gradients


def processes_of(model: PreTrainedModel) -> Processes:
    """Return this process among those that read with a model."""
    return getattr(model, _PROCESSES, Processes())


def deal(
    model: PreTrainedModel, items: Sequence[Item], by: Callable[[Item], Hashable]
) -> list[Item]:
    """Return this process's part of some items; those of one key are not parted."""
    processes = processes_of(model)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(map(by, items)))}
    return [item for item in items if numbers[by(item)] % processes.size == processes.rank]


def collect(model: PreTrainedModel, found: dict[Number, Found]) -> dict[Number, Found]:
    """Return what all processes have found, in each of them; all must call this."""
    in_step = getattr(model, _IN_STEP, None)
    if in_step is not None:
        in_step.wait()
    everything: dict[Number, Found] = {}
    for each in processes_of(model).all_of(found):
        everything |= each
    return everything


class _InStep:
    """Lets every process of a model in parts enter each pass of any."""

    def __init__(self, model: PreTrainedModel, processes: Processes) -> None:
        self._model = model
        self._processes = processes
        self._is_waiting = False
        model.register_forward_pre_hook(self._enter, prepend=True)  # before weights are gathered

    def wait(self) -> None:
        """Enter passes until nobody reads."""
        nothing = torch.zeros((1, 1), dtype=torch.long, device=self._model.device)
        self._is_waiting = True
        while self._readers(0):
            self._model(input_ids=nothing, use_cache=False)
        self._is_waiting = False

    def _enter(self, *_: object) -> None:
        if not self._is_waiting:
            self._readers(1)

    def _readers(self, number: int) -> float:
        return self._processes.total(torch.tensor(number, device=self._model.device))
