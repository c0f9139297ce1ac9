"""This machine's bf16 matrix-multiply peak, on the shapes of a model's own linear layers.

    python -m benchmarks.matmul_peak --model models/base --out peak.json

Measured as the train stage does (``tuning/training/flops.py``), with the output head among the
layers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tuning.language_model.device import Device
from tuning.run.process import die_with_parent
from tuning.training.flops import NUM_TOKENS, linear_shapes, matmul_peak


def main() -> None:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="rows times tokens per row")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    args = parser.parse_args()
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(args.model))
    shapes = linear_shapes(empty)
    device = Device(kind="cpu", precision="bf16", compiled=False, notes=())
    peak = {
        "flops_per_second": matmul_peak(shapes, device, args.tokens),
        "num_weights": sum(n * num_in * num_out for (num_in, num_out), n in shapes.items()),
    }
    args.out.write_text(json.dumps(peak))


if __name__ == "__main__":
    die_with_parent()
    main()
