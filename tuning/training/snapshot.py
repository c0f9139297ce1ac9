"""Weights and optimizer state to plain tensors and back: what a checkpoint holds.

Names are ``weight/<parameter>`` and AdamW's ``step/<parameter>``, ``exp_avg/<parameter>`` and
``exp_avg_sq/<parameter>``, of trained parameters only: frozen ones are the base model's. Nothing
else of a run needs keeping but its log.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tuning.training.processes import Processes


def take(model: nn.Module, optimizer: AdamW, processes: Processes) -> dict[str, Tensor]:
    """Return weights and state, whole, on the main process's CPU; every process must call this."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        tensors[f"weight/{name}"] = parameter
        # AdamW has no state of a parameter that has had no gradient yet.
        state = optimizer.state.get(parameter) or _no_state(parameter)
        tensors |= {f"{key}/{name}": value for key, value in state.items()}
    return processes.gather(tensors)


def restore_weights(
    model: nn.Module, tensors: Mapping[str, Tensor] | None, processes: Processes
) -> None:
    """Put the main process's tensors into every process's model; others pass None."""
    for name, parameter in _trained(model):
        source = tensors[f"weight/{name}"] if tensors is not None else None
        processes.copy_from_main(parameter.data, source)


def restore(
    model: nn.Module,
    optimizer: AdamW,
    tensors: Mapping[str, Tensor] | None,
    processes: Processes,
) -> None:
    """Put weights and state into model and optimizer."""
    restore_weights(model, tensors, processes)
    for name, parameter in _trained(model):
        optimizer.state[parameter] = _no_state(parameter)
        for key, value in optimizer.state[parameter].items():
            source = tensors[f"{key}/{name}"] if tensors is not None else None
            processes.copy_from_main(value, source)


def _no_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state before its first update, as the fused one keeps it."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]
