"""A text that is read in parts: what layers keep of one is where they go on with the next."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


def read_part(
    model: PreTrainedModel, ids: Sequence[int], cache: DynamicCache, start: int
) -> Tensor:
    """Read tokens behind those in the cache; return the logits ``[1, V]`` of the one to come.

    Args:
        model: Any causal language model.
        ids: At least one; not all models take more than one behind others.
        cache: Made for the model's configuration.
        start: The number of tokens that were read before.
    """
    taken = signature(model.forward).parameters
    inputs: dict[str, Any] = {
        "cache_params" if "cache_params" in taken else "past_key_values": cache
    }
    if "position_ids" in taken:  # not every model counts what was read (Bamba)
        positions = torch.arange(start, start + len(ids), device=model.device)
        inputs["position_ids"] = positions[None]
    logits: Tensor = model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        **inputs,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits
