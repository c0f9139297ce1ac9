"""A model with packed weights computes what it computed before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tuning.writing.packed_weights import pack_weights

TEXTS = ["Hello! How are you?", "I am fine, thank you. And you?"] * 20
IDS = torch.arange(5, 35).reshape(3, 10)


def num_linear(model: nn.Module) -> int:
    return sum(type(module) in (nn.Linear, Conv1D) for module in model.modules())


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gpt2])
def test_logits_stay_as_they_were_at_any_number_of_rows(
    make: Callable[[Path, list[str]], None], tmp_path: Path
) -> None:
    make(tmp_path, TEXTS)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = [model(input_ids=ids).logits for ids in (IDS, IDS[:1, :1])]
        assert num_linear(model) > 0
        pack_weights(model)
        assert num_linear(model) == 0
        for ids, logits in zip((IDS, IDS[:1, :1]), expected, strict=True):
            torch.testing.assert_close(model(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_the_same(bias: bool) -> None:
    model = nn.Sequential(nn.Linear(48, 80, bias=bias), nn.Linear(80, 16, bias=bias))
    rows = torch.randn(2, 5, 48)
    with torch.inference_mode():
        expected = model(rows)
        pack_weights(model)
        torch.testing.assert_close(model(rows), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(48, 80), Conv1D(80, 48)], ids=["linear", "conv1d"])
def test_a_layers_weights_can_still_be_read(layer: nn.Linear | Conv1D) -> None:
    """Jamba and Falcon Mamba multiply by those of ``dt_proj`` and add its bias themselves."""
    model = nn.Sequential(layer)
    pack_weights(model)
    packed: Any = model[0]
    assert packed is not layer
    assert torch.equal(packed.weight, layer.weight)
    assert torch.equal(packed.bias, layer.bias)


def test_what_is_not_float32_stays() -> None:
    model = nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.Linear(8, 8, device="meta"))
    pack_weights(model)
    assert num_linear(model) == 2
