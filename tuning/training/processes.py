"""One training in several processes: who they are, what they sum and share.

In one process everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    num_on_this_host: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that prints, logs and writes."""
        return self.rank == 0

    def total(self, number: Tensor) -> float:
        """Sum a scalar over all processes."""
        if self.size > 1:
            number = number.clone()
            dist.all_reduce(number)
        return float(number)

    def share(self, value: Any) -> Any:
        """Return the main process's value, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; sharded ones are summed already."""
        if self.size == 1:
            return
        waiting = []
        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                waiting.append(dist.all_reduce(parameter.grad, async_op=True))
        for handle in waiting:
            handle.wait()

    def copy_from_main(self, target: Tensor, source: Tensor | None) -> None:
        """Give ``target`` the whole tensor ``source`` of the main process; shards take a part."""
        with torch.no_grad():
            if self.size > 1:
                received = torch.empty(target.shape, dtype=target.dtype, device=target.device)
                if source is not None:
                    received.copy_(source)
                dist.broadcast(received, 0)
                source = received
            assert source is not None
            if isinstance(target, DTensor):
                mesh, placements = target.device_mesh, target.placements
                source = distribute_tensor(source, mesh, placements, src_data_rank=None)
            target.copy_(source)

    def gather(self, tensors: Mapping[str, Tensor], *, copy: bool = False) -> dict[str, Tensor]:
        """Gather whole tensors on the main process's CPU; all must call this, the others get none.

        They may be the tensors themselves, unless a ``copy`` is asked for.

        Names that stand for one tensor do so in the result.
        """
        found = {}
        for tensor in dict.fromkeys(tensors.values()):
            if self.is_main or isinstance(tensor, DTensor):
                full = whole(tensor, copy=copy)
                if self.is_main:  # the others need not have room for all
                    found[tensor] = full
        return {name: found[tensor] for name, tensor in tensors.items() if self.is_main}


def whole(tensor: Tensor, *, copy: bool = False) -> Tensor:
    """Return a tensor with all its shards, on the CPU; every process must call this."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=copy)


def shard(loss: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Split parameters, gradients and optimizer state over all processes (FSDP2).

    Gradients are summed, as ``Processes.sum_gradients`` does, not averaged.
    """
    for module in (*blocks, loss):
        sharded = fully_shard(module, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other
