"""Attention over packed rows on a GPU: PyTorch's flex attention, compiled into one fused kernel.

Blocks of a row whose tokens all belong to other windows are never computed (Dong et al. 2024, "Flex
Attention"), and no mask of T x T is made or read. Its backward pass has no atomic additions, whose
order, and so whose last bits, would change from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad
from transformers import AttentionInterface, PreTrainedModel

from tuning.language_model.loading import has_plain_attention
from tuning.language_model.masks import FirstSeen
from tuning.training.attention_cpu import in_product_type

NAME = "packed_flex"
BLOCK_SIZE = 128


def suits(model: PreTrainedModel) -> bool:
    """Tell whether transformers' model takes such a mask, and drops no attention weights."""
    settings = model.config.get_text_config().to_dict().items()
    drops = any(value for name, value in settings if name.startswith("att") and "drop" in name)
    return model._supports_flex_attn and has_plain_attention(model) and not drops


def block_mask(segment_ids: Tensor, first_seen: FirstSeen | None = None) -> BlockMask:
    """Return the mask of ``tuning.packing.attention_mask``, narrowed to a layer's, by blocks.

    A token sees all from one place of its row up to itself, so two places for each block of queries
    say which blocks of keys it needs, and which of them whole.

    Args:
        segment_ids: ``[B, T]``, equal within a window and nowhere else in the row.
        first_seen: From ``masks.by_layer``.
    """
    num_rows, num_tokens = segment_ids.shape
    place = torch.arange(num_tokens, device=segment_ids.device)
    is_first = pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0), value=True)
    first = (place * is_first).cummax(1).values
    if first_seen is not None:
        first = first + first_seen(place - first).clamp(min=0)

    def is_seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (key >= first[row, query])

    filled = pad(first, (0, -num_tokens % BLOCK_SIZE), value=num_tokens)
    by_block = filled.view(num_rows, 1, -1, 1, BLOCK_SIZE)  # [B, 1, Q, 1, tokens]
    keys = torch.arange(by_block.shape[2], device=segment_ids.device)
    queries = keys[:, None]
    is_whole = (keys < queries) & (keys * BLOCK_SIZE >= by_block.amax(-1))
    is_needed = (keys <= queries) & (keys >= by_block.amin(-1) // BLOCK_SIZE)
    return BlockMask.from_kv_blocks(
        *_listed(is_needed & ~is_whole),
        *_listed(is_whole),
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=is_seen,
        seq_lengths=(num_tokens, num_tokens),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys there are for each of queries, and these before the others."""
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), indices.int()


def packed_flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention in transformers' form.

    Args:
        module: The attention layer; unused but for ``training``.
        query: ``[B, H, T, D]``.
        key: ``[B, G, T, D]``; each of G groups serves H / G heads.
        value: ``[B, G, T, D]``.
        attention_mask: From ``block_mask``.
        scaling: Factor of the scores; by default ``1 / sqrt(D)``.
        dropout: Must be 0 in training, as in every model that this ``suits``.

    Returns:
        ``[B, T, H, D]``, and no attention weights.
    """
    assert not (dropout and module.training)
    query, key, value = in_product_type(query, key, value)
    shares_keys = query.shape[1] != key.shape[1]
    output = flex_attention(
        query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=shares_keys
    )
    assert isinstance(output, Tensor)
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, packed_flex_attention)
