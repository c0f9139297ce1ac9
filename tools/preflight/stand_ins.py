"""Stands for what holds other bytes than its code shows: kernels, and weights of few bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tools.preflight.meter import Meter
from tuning.language_model.loading import decoder_blocks
from tuning.training.attention_cpu import in_product_type

FUSED = "counted_as_fused"
"""The name of an attention that holds what a GPU's does."""
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of linear layers' frozen weights; nf4 has a scale of 8 bits per 64 of them, and one of 32 bits
per 256 scales."""


class _Widened(torch.autograd.Function):
    """A product with weights of few bits, which bitsandbytes widens in either pass anew.

    With 8 bits it keeps its inputs, which no gradient needs.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, keeps_inputs: bool) -> Tensor:  # noqa: FBT001
        ctx.weight, ctx.kept = weight, inputs if keeps_inputs else None
        return inputs @ weight.to(inputs.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.weight.to(gradient.dtype, copy=True).T, None, None


class _FewBits(nn.Module):
    """What a linear layer is in few bits. A class, for layers of one class are compiled once."""

    weight: Tensor
    kind: str
    compute: torch.dtype

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight.T if isinstance(self, nn.Linear) else self.weight
        if self.kind == "int8":
            product: Tensor = _Widened.apply(inputs, weight, True)  # type: ignore[no-untyped-call]
            return product
        product = _Widened.apply(inputs.to(self.compute), weight, False)  # type: ignore[no-untyped-call]
        return product.to(inputs.dtype).clone()  # PEFT's copy


class _FewBitsLinear(_FewBits, nn.Linear):
    pass


class _FewBitsConv1D(_FewBits, Conv1D):  # type: ignore[misc]
    pass


def in_few_bits(model: PreTrainedModel, kind: str, compute: torch.dtype) -> None:
    """Let the blocks' linear layers hold what they would in few bits, but for the weights."""
    classes = {nn.Linear: _FewBitsLinear, Conv1D: _FewBitsConv1D}
    for block in decoder_blocks(model):
        for layer in block.modules():
            if type(layer) in classes:
                layer.__class__ = classes[type(layer)]
                layer.kind, layer.compute = kind, compute  # type: ignore[assignment]


def saved_bytes(model: PreTrainedModel, kind: str | None) -> int:
    """Return the bytes that fewer bits save of the linear layers."""
    if kind is None:
        return 0
    frozen = [
        each
        for block in decoder_blocks(model)
        for each in block.parameters()
        if each.ndim == 2 and not each.requires_grad
    ]
    few = sum(BYTES_PER_WEIGHT[kind] * each.numel() for each in frozen)
    return sum(each.nbytes for each in frozen) - int(few)


def compile_blocks(model: PreTrainedModel, meter: Meter) -> None:
    """Let the decoder's blocks hold what they would if they were compiled."""
    torch.compiler.reset()  # it stops compiling after some models of other shapes
    for block in decoder_blocks(model):
        block.compile(dynamic=False, backend="aot_eager_decomp_partition")
    meter.heap.has_small_blocks = False


def fused_nll_to_gradient(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:  # noqa: ARG001
    """Stand for ``nll_to_gradient`` as it is compiled: one kernel that needs no other memory."""
    return logits.sum(dtype=torch.float32)


def _fused_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,  # noqa: ARG001
    **_: Any,
) -> tuple[Tensor, None]:
    """Stand for a GPU's attention: it keeps queries, keys, values and output, and no scores.

    So do the products of linear attention, which this is.
    """
    query, key, value = in_product_type(query, key, value)
    in_groups = torch.unflatten(query, 1, (key.shape[1], -1)).flatten(2, 3)
    output = (in_groups @ (key.transpose(-1, -2) @ value)).view_as(query)
    return output.transpose(1, 2), None


AttentionInterface.register(FUSED, _fused_attention)
