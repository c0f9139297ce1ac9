"""Linear layers whose weights lie in memory as the CPU's kernels read them.

A model that writes multiplies few rows by all of its weights, token after token. PyTorch's float32
product brings a weight into its kernel's order at every call, which then takes longer than the
product; oneDNN can have it so beforehand, as PyTorch's own compiler does with frozen weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _PackedLinear(nn.Module):
    """What a linear layer computes, to the last bits of float32."""

    def __init__(self, linear: nn.Linear, num_rows: int) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), num_rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return product


def pack_weights(model: nn.Module, num_rows: int) -> None:
    """Replace the linear layers of a model, in place: from now on it can only infer.

    Nothing happens to layers of another type than float32, on a GPU, or without oneDNN.

    Args:
        model: Any.
        num_rows: Rows that are multiplied at a time, as a rule; any number can be.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                weight = layer.weight
                if weight.device.type == "cpu" and weight.dtype == torch.float32:
                    setattr(parent, name, _PackedLinear(layer, num_rows))
