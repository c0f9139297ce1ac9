"""One training in several processes: who they are, what they sum and share.

``TUNING_TORCHRUN`` holds torchrun's options, such as ``--nproc-per-node 2``; without it a run is
one process and everything here does nothing. It is no parameter: results agree but for rounding.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stages.errors import UserError

TORCHRUN = "TUNING_TORCHRUN"


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    num_on_this_host: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that prints, logs and writes."""
        return self.rank == 0

    def total(self, number: Tensor) -> float:
        """The sum of a scalar over all processes."""
        if self.size > 1:
            number = number.clone()
            dist.all_reduce(number)
        return float(number)

    def share(self, value: Any) -> Any:
        """The main process's value, in all of them."""
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
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                waiting.append(dist.all_reduce(parameter.grad, async_op=True))
        for handle in waiting:
            handle.wait()

    def copy_from_main(self, target: Tensor, source: Tensor | None) -> None:
        """Give ``target`` the whole tensor ``source`` of the main process; shards take a part."""
        with torch.no_grad():
            if self.size > 1:
                whole = torch.empty(target.shape, dtype=target.dtype, device=target.device)
                if source is not None:
                    whole.copy_(source)
                dist.broadcast(whole, 0)
                source = whole
            assert source is not None
            if isinstance(target, DTensor):
                source = distribute_tensor(source, target.device_mesh, target.placements)
            target.copy_(source)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards, on the CPU; every process must ask for it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, whole, on the CPU; every process must ask for it."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def shard(loss: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Split parameters, gradients and optimizer state over all processes (FSDP2).

    Gradients are summed, as ``Processes.sum_gradients`` does, not averaged.
    """
    for module in (*blocks, loss):
        sharded = fully_shard(module)
        sharded.set_gradient_divide_factor(1.0)


def start_processes(module: str) -> Processes | None:
    """Join the run's processes, or start them and wait.

    Returns:
        This process's place; None in the process that started the others, when all have ended.

    Raises:
        UserError: torchrun does not accept its options, or a process failed (it has said why).
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "RANK" in os.environ:
        return _join()
    options = os.environ.get(TORCHRUN)
    if not options:
        return Processes()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun warns; each sets its own
    try:
        command = [*shlex.split(options), "-m", module, *sys.argv[1:]]
        arguments = parse_args(command)  # type: ignore[no-untyped-call]
    except (SystemExit, ValueError) as error:
        raise UserError(f"{TORCHRUN} is {options!r}, which torchrun does not accept.") from error
    try:
        run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        failed = ", ".join(str(rank) for rank in sorted(error.failures))
        raise UserError(f"process {failed} of the run failed; it says why above.") from None
    return None


def _join() -> Processes:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if has_gpu else "gloo")
    return Processes(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        num_on_this_host=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
