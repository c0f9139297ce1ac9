"""A model in parts: each process holds its own, and gathers a block's while it computes (FSDP2).

Only the main process reads the model's files. The others are sent the modules without the weights'
contents, and of these their part, so a host holds a model once, whatever the number of processes.
What is trained beside frozen weights, and norms and biases, are small: each process holds them
whole, and their gradients are summed as they are without sharding.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.processes.group import Processes

Beside = TypeVar("Beside")


class Spread(Generic[Beside]):
    """A model that the main process has made, in every process, to be filled once it is sharded."""

    def __init__(
        self, make: Callable[[], tuple[PreTrainedModel, Beside]], processes: Processes
    ) -> None:
        """Make it, and send it to all without the contents of its parameters.

        Args:
            make: Called in the main process alone; makes the model, on the CPU, and what refers to
                it.
            processes: This process among those that hold the model.
        """
        self._processes = processes
        self.made = make() if processes.is_main else None
        """In the main process, the model with its contents."""
        sent = _without_contents(self.made) if self.made else None
        received = pickle.loads(processes.share(sent))  # noqa: S301 - from a process of this run
        self.model: PreTrainedModel = received[0]
        self.beside: Beside = received[1]
        if self.made is None:  # transformers notes by class, as one is made, what it can put out
            with torch.device("meta"):
                type(self.model)(deepcopy(self.model.config))

    def fill(self, whole: nn.Module, device: str) -> None:
        """Give the model its contents; each process takes its part.

        Args:
            whole: What has been sharded: the model, or a module with nothing but it.
            device: Kind of device that it moves to.
        """

        def moved(tensor: Tensor) -> Tensor:
            is_empty = tensor.is_meta
            return torch.empty_like(tensor, device=device) if is_empty else tensor.to(device)

        whole._apply(moved)  # type: ignore[no-untyped-call]
        sources = list(self.made[0].parameters()) if self.made else []
        for index, target in enumerate(whole.parameters()):
            self._processes.copy_from_main(target.data, sources[index] if sources else None)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether each process holds only a part of a module that went through ``shard``."""
    return isinstance(module, FSDPModule)


def shard(
    whole: nn.Module, blocks: Iterable[nn.Module], *, dtype: torch.dtype | None = None
) -> None:
    """Split parameters, gradients and optimizer state over all processes.

    Gradients are summed, not averaged.

    Args:
        whole: Called by every process in each pass, equally often.
        blocks: Its parts that are gathered one after the other.
        dtype: Type in which the weights of a block of linear layers are gathered, if their products
            are computed in it; a block with others (experts, convolutions) is in its own.
    """
    parameters = list(whole.parameters())
    is_frozen = not all(each.requires_grad for each in parameters)
    kept = {each for each in parameters if each.ndim < 2 or (is_frozen and each.requires_grad)}

    def split(module: nn.Module, policy: MixedPrecisionPolicy) -> None:
        sharded = fully_shard(
            module, reshard_after_forward=True, mp_policy=policy, ignored_params=kept
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other

    as_they_are = MixedPrecisionPolicy(cast_forward_inputs=False)
    low = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        others = (part for part in block.modules() if not isinstance(part, nn.Linear | Conv1D))
        own = chain.from_iterable(part.parameters(recurse=False) for part in others)
        split(block, low if kept.issuperset(own) else as_they_are)
    split(whole, as_they_are)


class _Pickler(pickle.Pickler):
    """Leaves out what parameters hold; one that stands in several places stays one."""

    def reducer_override(self, value: Any) -> Any:
        """Say how a parameter is made anew."""
        if isinstance(value, nn.Parameter):
            return _empty_parameter, (value.shape, value.dtype, value.requires_grad)
        return NotImplemented


def _without_contents(made: object) -> bytes:
    content = io.BytesIO()
    _Pickler(content).dump(made)
    return content.getvalue()


def _empty_parameter(shape: torch.Size, dtype: torch.dtype, requires_grad: bool) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad)
