"""Weights and optimizer state to plain tensors and back: what a checkpoint holds.

Names are ``weight/<parameter>``, ``exp_avg/<parameter>`` and ``exp_avg_sq/<parameter>``, of trained
parameters only: frozen ones are the base model's. Nothing else of a run needs keeping but its log.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from stages.training.processes import Processes

MOMENTS = ("exp_avg", "exp_avg_sq")


def take(model: nn.Module, optimizer: AdamW, processes: Processes) -> dict[str, Tensor]:
    """Weights and moments, whole, on the main process's CPU; every process must ask for them."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        tensors[f"weight/{name}"] = parameter
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
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
