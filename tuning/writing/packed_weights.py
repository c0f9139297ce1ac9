"""Linear layers whose weights lie in memory as the CPU's kernels read them.

A model that writes multiplies few rows by all of its weights, token after token. PyTorch's float32
product brings a weight into its kernel's order at every call, which then takes longer than the
product; oneDNN can have it so beforehand, as PyTorch's own compiler does with frozen weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tuning.processes.sharding import is_sharded

NUM_ROWS = 32
"""The order is the one for about so many rows at a time; any number can be multiplied."""


class _PackedLinear(nn.Module):
    """A layer that computes what a linear layer does, to the last bits of float32."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__()
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):  # [in, out]
            weight = weight.T.contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, NUM_ROWS)
        self._is_transposed = isinstance(layer, Conv1D)
        self.bias = None if layer.bias is None else layer.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The layer's own, made anew: some state spaces multiply by it without a call."""
        weight: Tensor = self._weight.to_dense()
        return weight.T if self._is_transposed else weight

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self.bias, "none", [], ""
        )
        return product


def pack_weights(model: nn.Module) -> None:
    """Replace the linear layers of a model, in place: from now on it can only infer.

    Nothing happens to layers of another type than float32, on a GPU, in a model of which this
    process holds only a part, or without oneDNN.
    """
    if is_sharded(model) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear or type(layer) is Conv1D:
                weight = layer.weight
                if weight.device.type == "cpu" and weight.dtype == torch.float32:
                    setattr(parent, name, _PackedLinear(layer))
