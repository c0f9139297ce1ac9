"""Models whose tokens see more than a mask shows them are refused before anything is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_model import enlarged
from tuning.language_model.loading import LENGTHS, load_plain_model, num_visible
from tuning.run.errors import UserError

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
LINEAR = {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")} | {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}


def saved(folder: Path, kind: str, **settings: Any) -> Path:
    config = AutoConfig.for_model(kind, **SMALL | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        enlarged(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind",
    ["llama", "gpt2", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "mistral", "olmo2", "opt"],
)
def test_attention_alone_keeps_texts_apart(tmp_path: Path, kind: str) -> None:
    model = load_plain_model(saved(tmp_path, kind))
    assert model.dtype == torch.float32
    assert not model.training


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"], **STATE_SPACE}),
        ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"], **LINEAR}),
    ],
    ids=["convolution", "state-space", "linear-attention"],
)
def test_a_layer_that_reads_past_the_mask_is_found(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    message = f"model.name: {kind} models cannot be trained here.*mix what a mask keeps apart"
    with pytest.raises(UserError, match=message):
        load_plain_model(saved(tmp_path, kind, **settings))


def test_a_model_without_the_library_s_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gemma2 models .*no scaled_dot_product_attention"):
        load_plain_model(saved(tmp_path, "gemma2"))


def rewrite(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | settings), encoding="utf-8")
    return folder


def test_the_attention_is_ours_whatever_the_configuration_says(tmp_path: Path) -> None:
    model = load_plain_model(
        rewrite(saved(tmp_path, "llama"), _attn_implementation="someone/kernel")
    )
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_is_built_and_does_not_run_is_refused(tmp_path: Path) -> None:
    folder = rewrite(saved(tmp_path, "mixtral"), num_experts_per_tok=99)
    with pytest.raises(UserError, match="cannot run this model .*out of range"):
        load_plain_model(folder)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("gpt2", {"n_positions": 24}, 24),
        ("llama", {"max_position_embeddings": 99}, 99),
        ("mistral", {"max_position_embeddings": 99, "sliding_window": 30}, 30),
        ("mistral", {"max_position_embeddings": 99, "sliding_window": None}, 99),
        ("gemma3_text", {"max_position_embeddings": 20, "sliding_window": 30}, 20),
        ("mamba", {}, sys.maxsize),
    ],
)
def test_a_token_sees_as_far_as_positions_and_window_reach(
    kind: str, settings: dict[str, Any], expected: int
) -> None:
    assert num_visible(AutoConfig.for_model(kind, **settings)) == expected
    assert max(LENGTHS) < 20
