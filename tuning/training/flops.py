"""The share of the machine's peak of matrix products that a training uses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.language_model.device import Device

NUM_TRIES = 5
"""Timed tries of each product, after one that is not counted."""
NUM_TOKENS = 4096
"""Tokens of a forward pass that is large enough to reach the peak."""


def flops_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Floating-point operations of a training step per row token, and more per target token.

    Six per weight of a linear layer (two forward, four backward), four if it is frozen; the head
    counts for targets only, as only they pass it. Attention's own products and recomputed ones are
    not counted.
    """
    head = model.get_output_embeddings()
    per_row_token = sum(
        (6 if layer.weight.requires_grad else 4) * layer.weight.numel()
        for layer in _linear_layers(model)
        if layer is not head
    )
    return per_row_token, 6 * head.weight.numel()


def linear_shapes(model: PreTrainedModel) -> Counter[tuple[int, int]]:
    """Count the model's linear layers, its head included, by (inputs, outputs)."""
    return Counter(
        (layer.nx, layer.nf)
        if isinstance(layer, Conv1D)
        else (layer.in_features, layer.out_features)
        for layer in _linear_layers(model)
    )


def matmul_peak(
    shapes: Counter[tuple[int, int]], device: Device, num_tokens: int = NUM_TOKENS
) -> float:
    """Operations per second of what linear layers do in a training step, and nothing else.

    Per layer, the product of the forward pass and the two of the backward pass, into memory that is
    already there, each at its fastest of several tries; all operations over all times.
    """
    seconds = sum(n * _layer_seconds(device, num_tokens, *shape) for shape, n in shapes.items())
    num_weights = sum(n * num_in * num_out for (num_in, num_out), n in shapes.items())
    return 6 * num_tokens * num_weights / seconds


def _linear_layers(model: PreTrainedModel) -> list[nn.Linear | Conv1D]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D)]


def _layer_seconds(device: Device, num_tokens: int, num_in: int, num_out: int) -> float:
    x, weight, y = (
        torch.ones(size, dtype=device.dtype, device=device.kind)
        for size in ((num_tokens, num_in), (num_out, num_in), (num_tokens, num_out))
    )

    def fastest(left: Tensor, right: Tensor, out: Tensor) -> float:
        return _fastest(lambda: torch.mm(left, right, out=out), device)

    return (
        fastest(x, weight.t(), torch.empty_like(y))
        + fastest(y, weight, torch.empty_like(x))
        + fastest(y.t(), x, torch.empty_like(weight))
    )


def _fastest(product: Callable[[], object], device: Device) -> float:
    """Seconds of the fastest try."""
    product()
    tries = []
    for _ in range(NUM_TRIES):
        _finish(device)
        started = time.perf_counter()
        product()
        _finish(device)
        tries.append(time.perf_counter() - started)
    return min(tries)


def _finish(device: Device) -> None:
    """Wait for a GPU, which computes while the program goes on."""
    if device.kind == "cuda":
        torch.cuda.synchronize()
