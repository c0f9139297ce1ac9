"""The processes of a run: who they are, what they sum and share.

In one process everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from tuning.run.errors import UserError


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

    def require_same(self, fingerprint: str) -> None:
        """Refuse to work beside a process that would do something else.

        Raises:
            UserError: another process has another fingerprint of code, parameters and inputs.
        """
        if self.share(fingerprint) != fingerprint:
            raise UserError(
                "code, parameters or inputs on this host are not those of the first host."
            )

    def part(self) -> None:
        """Wait for all, and leave them: what follows, the main process does alone."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

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

    def all_of(self, value: Any) -> list[Any]:
        """Return the values of all processes, in all of them."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

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
