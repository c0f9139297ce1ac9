"""This machine's bf16 matrix-multiply peak, on the shapes of a model's own linear layers.

    python -m benchmarks.matmul_peak --model models/base --out peak.json

Per weight, the output head's included: the product of the forward pass and the two of the backward
pass, into memory that is already there, each at its fastest of several tries. The peak is all of
their operations over all of their times, every layer counted as often as the model has it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from stages.process import die_with_parent

TRIES = 5
"""Of each product, after one that is not counted."""


def main() -> None:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    parser.add_argument("--tokens", type=int, default=4096, help="rows times tokens per row")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    args = parser.parse_args()
    shapes = linear_shapes(args.model)
    seconds = sum(n * shape_seconds(args.tokens, *shape) for shape, n in shapes.items())
    num_weights = sum(n * num_in * num_out for (num_in, num_out), n in shapes.items())
    flops = 6 * args.tokens * num_weights / seconds
    args.out.write_text(json.dumps({"flops_per_second": flops, "num_weights": num_weights}))


def linear_shapes(model: Path) -> Counter[tuple[int, int]]:
    """How often the model has a linear layer of (inputs, outputs)."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    shapes: Counter[tuple[int, int]] = Counter()
    for layer in empty.modules():
        if isinstance(layer, nn.Linear):
            shapes[layer.in_features, layer.out_features] += 1
        elif isinstance(layer, Conv1D):  # GPT-2's linear layer, its weight transposed
            shapes[layer.weight.shape[0], layer.weight.shape[1]] += 1
    return shapes


def shape_seconds(num_tokens: int, num_in: int, num_out: int) -> float:
    """Seconds of the three products of one layer in one step."""
    x, weight, y = (
        torch.randn(size, dtype=torch.bfloat16)
        for size in ((num_tokens, num_in), (num_out, num_in), (num_tokens, num_out))
    )
    y_out, x_grad, weight_grad = map(torch.empty_like, (y, x, weight))
    return (
        fastest(lambda: torch.mm(x, weight.t(), out=y_out))
        + fastest(lambda: torch.mm(y, weight, out=x_grad))
        + fastest(lambda: torch.mm(y.t(), x, out=weight_grad))
    )


def fastest(product: Callable[[], object]) -> float:
    """Seconds of the fastest try."""
    product()
    tries = []
    for _ in range(TRIES):
        started = time.perf_counter()
        product()
        tries.append(time.perf_counter() - started)
    return min(tries)


if __name__ == "__main__":
    die_with_parent()
    main()
