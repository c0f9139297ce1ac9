"""Weights and optimizer state to plain tensors and back: what a checkpoint holds.

Names are ``weight/<parameter>``, ``exp_avg/<parameter>`` and ``exp_avg_sq/<parameter>``, of trained
parameters only: frozen ones are the base model's. Nothing else of a run needs keeping but its log.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from stages.training.processes import Processes, whole

MOMENTS = ("exp_avg", "exp_avg_sq")


def take_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters, whole, on the CPU; every process must ask for them."""
    return {f"weight/{name}": whole(parameter) for name, parameter in _trained(model)}


def take(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Weights and moments, whole, on the CPU; every process must ask for them."""
    tensors = take_weights(model)
    for name, parameter in _trained(model):
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = whole(optimizer.state[parameter][moment])
    return tensors


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
    step: int,
    tensors: Mapping[str, Tensor] | None,
    processes: Processes,
) -> None:
    """Put weights and moments after ``step`` updates into model and optimizer."""
    restore_weights(model, tensors, processes)
    for name, parameter in _trained(model):
        state: dict[str, Tensor] = {
            "step": torch.tensor(float(step), device=parameter.device)  # as fused AdamW keeps it
        }
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter)
            source = tensors[f"{moment}/{name}"] if tensors is not None else None
            processes.copy_from_main(state[moment], source)
        optimizer.state[parameter] = state


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]
