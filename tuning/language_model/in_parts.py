"""A text that is read in parts: what layers keep of one is where they go on with the next."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache


def read_part(model: PreTrainedModel, ids: Sequence[int], cache: Cache, start: int) -> Tensor:
    """Read tokens behind those in the cache; return the logits ``[1, V]`` of the one to come.

    Args:
        model: Any causal language model.
        ids: At least one; not all models take more than one behind others.
        cache: Made for the model's configuration.
        start: The number of tokens that were read before.
    """
    tokens = torch.tensor([list(ids)], device=model.device)
    positions = torch.arange(start, start + len(ids), device=model.device)
    return read_rows(model, tokens, cache, positions[None])


def read_rows(
    model: PreTrainedModel,
    ids: Tensor,
    cache: Cache,
    positions: Tensor,
    attention_mask: Tensor | dict[str, Tensor] | None = None,
) -> Tensor:
    """Read ``ids[B, T]`` at ``positions[B, T]``; return the logits ``[B, V]`` of those to come.

    The mask is in the form that the model takes; None: each row sees all that is in the cache.
    """
    taken = signature(model.forward).parameters
    inputs: dict[str, Any] = {
        "cache_params" if "cache_params" in taken else "past_key_values": cache
    }
    if "position_ids" in taken:  # not every model counts what was read (Bamba)
        inputs["position_ids"] = positions
    logits: Tensor = model(
        input_ids=ids, attention_mask=attention_mask, **inputs, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    return logits
