"""The operations of a training step: of what is trained and what is frozen, in any type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.families import small_model
from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_llama
from tests.training_runs import DEFAULTS, LORA, MAX_LENGTH, NEW_TOKENS, Start, start_from
from tuning.run.params import LoraParams
from tuning.training.few_bits import quantization_config
from tuning.training.flops import flops_per_token, linear_shapes
from tuning.training.lora import add_adapters
from tuning.training.start import load_for_training


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder: Path = tmp_path_factory.mktemp("llama")
    make_tiny_llama(folder / "base", TEXTS)
    return start_from(folder / "base", folder / "tokenizer")


def num_weights(start: Start) -> tuple[int, int]:
    """Of the linear layers but the head, and of the head."""
    model = load_for_training(start.base, start.tokenizer, MAX_LENGTH)
    head = model.get_output_embeddings().weight.numel()
    shapes = linear_shapes(model).items()
    return sum(n * num_in * num_out for (num_in, num_out), n in shapes) - head, head


def test_of_full_training_each_weight_takes_six(llama: Start) -> None:
    assert DEFAULTS.lora.rank is None
    layers, head = num_weights(llama)
    model = load_for_training(llama.base, llama.tokenizer, MAX_LENGTH)
    assert flops_per_token(model) == (6 * layers, 6 * head)


@pytest.mark.parametrize("new_tokens", [(), NEW_TOKENS])
@pytest.mark.parametrize("kind", [None, "int8", "nf4"])
def test_a_frozen_weight_takes_four_in_few_bits_too_and_the_head_counts_once(
    llama: Start, kind: str | None, new_tokens: tuple[int, ...]
) -> None:
    layers, head = num_weights(llama)
    few_bits = None
    if kind is not None:
        few_bits = quantization_config("nf4" if kind == "nf4" else "int8", torch.float32)
    model = load_for_training(
        llama.base, llama.tokenizer, MAX_LENGTH, device_map="cpu", quantization=few_bits
    )
    add_adapters(model, LORA, new_tokens)
    adapters = sum(each.numel() for name, each in model.named_parameters() if "lora_" in name)
    assert flops_per_token(model) == (4 * layers + 6 * adapters, 4 * head)


@pytest.mark.parametrize("lora", [None, LORA, LORA.model_copy(update={"targets": "q_proj"})])
def test_of_experts_those_count_that_a_token_is_sent_to(lora: LoraParams | None) -> None:
    """Two of four; where they have adapters, their own weights' gradients are computed, too."""
    model = small_model("mixtral")
    head, hidden, inner, layers = 300 * 16, 16, 32, 4
    attention = layers * (2 * 16 * 16 + 2 * 16 * 8)
    active = layers * 2 * 3 * hidden * inner
    shapes, num_adapters = linear_shapes(model), 0
    if lora is not None:
        add_adapters(model, lora, [])
        adapters = [(n, each) for n, each in model.named_parameters() if ".self_attn." in n]
        num_adapters = sum(each.numel() for n, each in adapters if ".lora_" in n)
        shapes = linear_shapes(model) & shapes
    assert sum(shapes.values()) == 4 * layers + 1
    per_weight = 6 if lora is None else 4
    per_active = 6 if lora in (None, LORA) else 4
    expected = per_weight * attention + per_active * active + 6 * num_adapters
    assert flops_per_token(model) == (expected, per_weight * head)
