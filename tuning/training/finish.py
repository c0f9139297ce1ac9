"""From the trained model to the one that is published: adapters merged, the base model's own type.

Both round weights. What that costs is measured in nats, on the same rows before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from tuning.processes.group import Processes
from tuning.processes.sharding import Spread, is_sharded
from tuning.training.loss import PackedLoss, sharded_loss
from tuning.training.passes import Passes
from tuning.training.rows import PackedRows


def round_weights(
    model: PreTrainedModel, dtype: torch.dtype, passes: Passes, sample: PackedRows
) -> dict[str, float]:
    """Give a fully trained model's weights the type in which they are published, in place.

    Every process, of which each holds the whole model, calls this.

    Returns:
        Nats per target of the sample, before and after.
    """
    before = _loss(passes, sample)
    nn.Module.to(model, dtype)
    return _figures(before, _loss(passes, sample))


def replace_model(
    make: Callable[[], PreTrainedModel], passes: Passes, sample: PackedRows | None
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Replace the trained model by the one that is published, with its adapters merged.

    Every process calls this; the main one gets the model, the others their own.

    Args:
        make: Makes the model to publish, on the CPU.
        passes: How the trained model, which is moved there where it is whole, was read.
        sample: The rows on which both are measured, if they are.

    Returns:
        The model; nats per target of the sample, before and after.
    """
    trained, is_main = passes.objective.model, passes.processes.is_main
    if sample is None:
        return make() if is_main else trained, {}
    before = _loss(passes, sample)
    device = trained.device
    is_compiled = passes.device.compiled and device.type != "cpu"
    device_of_made = replace(passes.device, compiled=is_compiled)
    if is_sharded(passes.objective):
        spread = Spread(lambda: (make(), None), passes.processes)
        in_parts = sharded_loss(spread, device_of_made)
        after = _loss(replace(passes, objective=in_parts), sample)
        return spread.made[0] if spread.made else trained, _figures(before, after)
    if not is_main:
        return trained, {}
    nn.Module.to(trained, "cpu")  # a GPU need not hold both
    model = make()
    nn.Module.to(model, device)
    try:
        objective = PackedLoss(model, device_of_made)
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
