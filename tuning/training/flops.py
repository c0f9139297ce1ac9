"""The share of the machine's peak of matrix products that a training uses."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.language_model.device import Device
from tuning.training.lora import experts, head_of, is_expert_adapter

NUM_TRIES = 3
"""Timed tries of each product, after one that is not counted."""
FLOPS_PER_TRY = 10**12
"""Operations of a try on a GPU, a few milliseconds: as in training, the next product is asked for
while it computes, and what asking and waiting take does not count."""
NUM_TOKENS = 2048
"""Tokens of a forward pass that is large enough to reach the peak, as many as a CPU's have."""


def flops_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Floating-point operations of a training step per row token, and more per target token.

    Six per weight of a linear layer (two forward, four backward), four if it is frozen, whatever
    its type; the head counts for targets only, as only they pass it. Of experts those count that a
    token is sent to. Attention's own products and recomputed ones are not counted, nor what adds
    adapters to experts, which takes as long for few tokens as for many.
    """
    head, _, _ = head_of(model)
    layers = _linear_layers(model)
    per_row_token = sum(_flops(layer) for layer in layers if layer is not head)
    return per_row_token + _flops_of_experts(model), _flops(head)


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
    """Return all but the factors of experts' adapters, which no token passes."""
    factors = {
        factor
        for adapter in filter(is_expert_adapter, model.modules())
        for name in ("lora_A", "lora_B")
        for factor in adapter.get_submodule(name).children()
    }
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D))
    return [layer for layer in layers if layer not in factors]


def _flops_of_experts(model: PreTrainedModel) -> int:
    """Operations per token; experts with adapters have gradients of their weights, too."""
    num_chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", None) or sys.maxsize
    is_adapted = any(map(is_expert_adapter, model.modules()))
    return sum(
        (6 if weight.requires_grad or is_adapted else 4)
        * min(num_chosen, len(weight))
        * weight.shape[1:].numel()
        for weight in experts(model).values()
    )


def _flops(layer: nn.Module) -> int:
    """Operations per token that passes the layer; of a weight in 4 bits its size tells half."""
    assert isinstance(layer.weight, Tensor)
    num_weights = (
        layer.in_features * layer.out_features
        if isinstance(layer, nn.Linear)
        else layer.weight.numel()
    )
    return (6 if layer.weight.requires_grad else 4) * num_weights


def _layer_seconds(device: Device, num_tokens: int, num_in: int, num_out: int) -> float:
    x, weight, y = (
        torch.ones(size, dtype=device.dtype, device=device.kind)
        for size in ((num_tokens, num_in), (num_out, num_in), (num_tokens, num_out))
    )
    repeats = 1
    if device.kind == "cuda":
        repeats = max(1, FLOPS_PER_TRY // (2 * num_tokens * num_in * num_out))
        for each in (x, weight, y):  # ones take less power, so that its clock would be higher
            each.normal_(generator=torch.Generator(device.kind).manual_seed(0))

    def fastest(left: Tensor, right: Tensor, out: Tensor) -> float:
        return _fastest(lambda: torch.mm(left, right, out=out), device, repeats)

    return (
        fastest(x, weight.t(), torch.empty_like(y))
        + fastest(y, weight, torch.empty_like(x))
        + fastest(y.t(), x, torch.empty_like(weight))
    )


def _fastest(product: Callable[[], object], device: Device, repeats: int) -> float:
    """Seconds of the product in the fastest try, which makes it so many times."""
    product()
    tries = []
    for _ in range(NUM_TRIES):
        _finish(device)
        started = time.perf_counter()
        for _ in range(repeats):
            product()
        _finish(device)
        tries.append(time.perf_counter() - started)
    return min(tries) / repeats


def _finish(device: Device) -> None:
    """Wait for a GPU, which computes while the program goes on."""
    if device.kind == "cuda":
        torch.cuda.synchronize()
