"""How much of the machine's matrix products per second a training uses."""

from __future__ import annotations

import time

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stages.device import Device
from stages.training.progress import Timing


def share_of_peak(
    model: PreTrainedModel, timing: Timing, device: Device, *, num_rows: int
) -> dict[str, float]:
    """``matmul_peak_gflops`` as measured now, and the training's ``share_of_matmul_peak``.

    ``num_rows`` is the tokens in a forward pass.
    """
    per_row_token, per_target = flops_per_token(model)
    used = per_row_token * timing.row_tokens_per_second + per_target * timing.tokens_per_second
    peak = matmul_peak(device, num_rows=num_rows, width=model.config.hidden_size)
    return {"matmul_peak_gflops": peak / 1e9, "share_of_matmul_peak": used / peak}


def flops_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Floating-point operations of a training step per row token, and more per target token.

    Six per weight of a linear layer (two forward, four backward), four if it is frozen; the head
    counts for targets only, as only they pass it. Attention's own products and recomputed ones are
    not counted.
    """
    head = model.get_output_embeddings()
    per_row_token = sum(
        (6 if module.weight.requires_grad else 4) * module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    )
    return per_row_token, 6 * head.weight.numel()


def matmul_peak(device: Device, *, num_rows: int, width: int, seconds: float = 1.0) -> float:
    """Operations per second of ``[num_rows, width] @ [width, 4 width]``, the best of many."""
    left = torch.ones(num_rows, width, dtype=device.dtype, device=device.kind)
    right = torch.ones(width, 4 * width, dtype=device.dtype, device=device.kind)
    best = float("inf")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        left @ right
        if device.kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * num_rows * width * 4 * width / best
