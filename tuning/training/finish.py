"""From the trained model to the one that is published: adapters merged, the base model's own type.

Both round weights. What that costs is measured in nats, on the same rows before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from tuning.training.loss import PackedLoss
from tuning.training.passes import Passes
from tuning.training.processes import Processes
from tuning.training.rows import PackedRows


def round_weights(
    model: PreTrainedModel, dtype: torch.dtype, passes: Passes, sample: PackedRows
) -> dict[str, float]:
    """Give a fully trained model's weights the type in which they are published, in place.

    Every process calls this.

    Returns:
        Nats per target of the sample, before and after.
    """
    before = _loss(passes, sample)
    nn.Module.to(model, dtype)
    return _figures(before, _loss(passes, sample))


def merge_adapters(
    merge: Callable[[], PreTrainedModel], passes: Passes, sample: PackedRows
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Replace the trained model by one with its adapters merged.

    Every process calls this; the main one gets the model, the others their own.

    Args:
        merge: Makes the merged model on the CPU.
        passes: How the trained model, which is moved there, was read.
        sample: The rows on which both are measured.

    Returns:
        The model; nats per target of the sample, before and after.
    """
    before = _loss(passes, sample)
    if not passes.processes.is_main:
        return passes.objective.model, {}
    device = passes.objective.model.device
    nn.Module.to(passes.objective.model, "cpu")  # a GPU need not hold both
    model = merge()
    is_compiled = passes.device.compiled and device.type != "cpu"
    device_of_merged = replace(passes.device, compiled=is_compiled)
    nn.Module.to(model, device)
    try:
        objective = PackedLoss(model, device_of_merged)
        after = _loss(replace(passes, objective=objective, processes=Processes()), sample)
    finally:
        nn.Module.to(model, "cpu")
    return model, _figures(before, after)


def _loss(passes: Passes, sample: PackedRows) -> float:
    # It is read once, so compiling is not worth it on a CPU; uncompiled, flex attention on a GPU
    # would hold all scores at once.
    stance = "force_eager" if passes.device.kind == "cpu" else "default"
    with torch.compiler.set_stance(stance):
        return passes.mean_loss(sample)


def _figures(before: float, after: float) -> dict[str, float]:
    return {"sample_loss_trained": before, "sample_loss_published": after}
