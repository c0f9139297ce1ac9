"""What a token sees in each layer of a model: in some it looks back less far than in others.

A layer of sliding attention sees the last tokens alone (Gemma 3, Mistral), one of chunked attention
those since its chunk began (Llama 4). Both are said by the first position that is seen from another
(a window of 3, and chunks of 3)::

    position        0 1 2 3 4 5 6
    window of 3     0 0 0 1 2 3 4
    chunks of 3     0 0 0 3 3 3 6

transformers takes one mask for all layers, or one by the name of each kind of layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

FirstSeen = Callable[[Tensor], Tensor]
"""The first position that is seen from each of some positions."""
Mask = TypeVar("Mask")


def by_layer(
    config: PreTrainedConfig, make: Callable[[FirstSeen | None], Mask]
) -> Mask | dict[str, Mask]:
    """Make the masks of a model's kinds of layers, in the form that the model takes.

    Args:
        config: The model's.
        make: Makes a mask of what a layer sees at most; None: everything before.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return {kind: make(_first_seen(config, kind)) for kind in sorted(kinds)}
    if not kinds and getattr(config, "sliding_window", None):
        return make(_first_seen(config, "sliding_attention"))
    return make(None)


def attention_masks(
    model: PreTrainedModel, visible: Tensor, queries: Tensor, keys: Tensor
) -> Tensor | dict[str, Tensor]:
    """Narrow what tokens see to what each kind of layer sees, in the form of the model's attention.

    Args:
        model: Its attention is transformers' own.
        visible: Boolean ``[B, 1, Q, K]``, true where token i may see token j.
        queries: ``[B, Q]`` Positions of the tokens that see.
        keys: ``[B, K]``, or ``[1, K]``, positions of those that are seen.
    """
    is_added = model.config._attn_implementation != "sdpa"

    def narrowed(first_seen: FirstSeen | None) -> Tensor:
        seen = visible
        if first_seen is not None:
            seen = seen & (keys[:, None, None] >= first_seen(queries)[:, None, :, None])
        return torch.where(seen, 0.0, -torch.inf) if is_added else seen

    return by_layer(model.config, narrowed)


def _first_seen(config: PreTrainedConfig, kind: str) -> FirstSeen | None:
    if kind == "sliding_attention":
        return lambda position: position - config.sliding_window + 1
    if kind == "chunked_attention":
        size = config.attention_chunk_size
        return lambda position: position // size * size
    return None
