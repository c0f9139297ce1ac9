"""Weights and optimizer state to plain tensors and back: what a checkpoint holds.

Names are ``weight/<parameter>`` and, of the optimizer, its own names: AdamW's ``step/<parameter>``,
``exp_avg/<parameter>`` and ``exp_avg_sq/<parameter>``. Of trained parameters only: frozen ones are
the base model's. Nothing else of a run needs keeping but its log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tuning.processes.group import Processes
from tuning.training.optimizer import Moments, Optimizer


def take(
    model: nn.Module, optimizer: Optimizer, processes: Processes, *, copy: bool = False
) -> dict[str, Tensor]:
    """Return weights and state, whole, on the main process's CPU; every process must call this.

    A ``copy`` stays as it is while the training goes on.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        tensors[f"weight/{name}"] = parameter
        for key, value in _own(optimizer.moments(parameter)):
            tensors[f"{key}/{name}"] = value
    return processes.gather(tensors, copy=copy)


def restore_weights(
    model: nn.Module, tensors: Mapping[str, Tensor] | None, processes: Processes
) -> None:
    """Put the main process's tensors into every process's model; others pass None."""
    for name, parameter in _trained(model):
        source = tensors[f"weight/{name}"] if tensors is not None else None
        processes.copy_from_main(parameter.data, source)


def restore(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor] | None,
    processes: Processes,
) -> None:
    """Put weights and state into model and optimizer."""
    restore_weights(model, tensors, processes)
    for name, parameter in _trained(model):
        moments = optimizer.moments(parameter)
        for key, value in _own(moments):
            source = tensors[f"{key}/{name}"] if tensors is not None else None
            processes.copy_from_main(value, source)
            if isinstance(moments[key], int):
                moments[key] = int(value)


def _own(moments: Moments) -> Iterator[tuple[str, Tensor]]:
    """Yield what is a parameter's own: not the tables of 8-bit numbers, which all share."""
    for key, value in moments.items():
        if not key.startswith("qmap"):
            yield key, torch.as_tensor(value)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]
