"""The loss of packed rows: nats per target token of the whole optimizer step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.encoding.packing import IGNORE_INDEX, attention_mask


def summed_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats summed over all targets.

    Args:
        logits: ``[B, T, V]``; ``logits[:, i]`` predicts token i + 1.
        labels: ``[B, T]``, unshifted; ``IGNORE_INDEX`` where there is no target.
    """
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def attach_packed_loss(model: PreTrainedModel, *, compiled: bool) -> None:
    """Replace ``model.forward`` by one that takes packed rows and returns their loss alone.

    The caller divides by the targets of the whole step: ``num_items_in_batch`` is the Trainer's
    name for that count. Returning no logits keeps accelerate from copying them to float32.

    Compiled, each decoder block becomes one region (they share code, so it is compiled once) and
    the loss another: as fast as compiling the whole model, ready in a third of the time.
    """
    full_forward = model.forward
    nll = torch.compile(summed_nll, dynamic=False) if compiled else summed_nll
    if compiled:
        for block in _decoder_blocks(model):
            block.compile(dynamic=False)

    def forward(
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        num_items_in_batch: Tensor,
    ) -> dict[str, Tensor]:
        output: Any = full_forward(
            input_ids=input_ids,
            attention_mask=attention_mask(segment_ids),
            position_ids=position_ids,
            use_cache=False,
        )
        return {"loss": nll(output.logits, labels) / num_items_in_batch}

    model.forward = forward
    # Tells the Trainer to count the step's targets and pass them in.
    vars(model)["accepts_loss_kwargs"] = True


def _decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules of one class: a transformer's repeated blocks."""
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    return max(lists, key=len, default=[])
