"""Attention over packed rows on a GPU: PyTorch's flex attention, compiled into one fused kernel.

Blocks of a row whose tokens all belong to other windows are never computed (Dong et al. 2024, "Flex
Attention"), and no mask of T x T is read. Its backward pass has no atomic additions, whose order,
and so whose last bits, would change from run to run.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from tuning.training.attention_cpu import in_product_type

NAME = "packed_flex"


def suits(model: PreTrainedModel) -> bool:
    """Tell whether transformers' model takes such a mask, and drops no attention weights."""
    settings = model.config.get_text_config().to_dict().items()
    drops = any(value for name, value in settings if name.startswith("att") and "drop" in name)
    return model._supports_flex_attn and not drops


def block_mask(segment_ids: Tensor) -> BlockMask:
    """Return the mask of ``tuning.packing.attention_mask``, by blocks, for ``[B, T]`` segments."""
    num_rows, num_tokens = segment_ids.shape

    def is_seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segment_ids[row, query] == segment_ids[row, key])

    device = segment_ids.device
    return create_block_mask(is_seen, num_rows, None, num_tokens, num_tokens, device=device)


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
