"""What llama.cpp computes for each of transformers' model types, and with which settings alone.

A type stands here when tests/unit/test_export_gguf.py shows that llama.cpp writes the same tokens
as transformers. Names of tensors are those of the package gguf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tuning.run.errors import UserError

Change = Callable[[Tensor, PreTrainedConfig], Tensor]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type."""

    arch: gguf.MODEL_ARCH
    """llama.cpp's name for it."""
    wanted: Callable[[PreTrainedConfig], Mapping[str, Any]]
    """Settings, each with the only value that llama.cpp computes with."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """How tensors are written whose names end so."""
    rope_types: tuple[str, ...] = ("default",)
    """How positions may be scaled."""
    has_windows: bool = False
    """Whether llama.cpp knows the sliding windows of some of its layers."""


def _interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a query or key matrix in the order in which llama.cpp turns pairs of them.

    transformers turns row i of a head with row i + d/2, llama.cpp row 2i with row 2i + 1.
    """
    num_rows, num_columns = weight.shape
    halves = weight.reshape(num_heads, 2, num_rows // num_heads // 2, num_columns)
    return halves.swapaxes(1, 2).reshape(num_rows, num_columns)


def _transposed(weight: Tensor, _config: PreTrainedConfig) -> Tensor:
    """A matrix of GPT-2, which keeps inputs in rows."""
    return weight.T


def _plus_one(weight: Tensor, _config: PreTrainedConfig) -> Tensor:
    """A scale of Gemma, which keeps what is above one."""
    return weight + 1


_LLAMA: Mapping[str, Change] = {
    "q_proj.weight": lambda weight, config: _interleaved(weight, config.num_attention_heads),
    "k_proj.weight": lambda weight, config: _interleaved(weight, config.num_key_value_heads),
}
_GELU = "gelu_pytorch_tanh"


def _later_gemma(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "hidden_activation": _GELU,
        "attention_bias": False,
        "query_pre_attn_scalar": config.head_dim,
        "use_bidirectional_attention": None if config.model_type == "gemma2" else False,
        "layer_types": _layer_types(config.num_hidden_layers, _period(config)),
    }


def _period(config: PreTrainedConfig) -> int:
    """Return the number of layers of which the last sees all, and the others a window."""
    types = config.layer_types
    return int(types.index("full_attention")) + 1 if "full_attention" in types else len(types) + 1


def _layer_types(num_layers: int, period: int) -> list[str]:
    sees_all = [(index + 1) % period == 0 for index in range(num_layers)]
    return ["full_attention" if each else "sliding_attention" for each in sees_all]


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        arch=gguf.MODEL_ARCH.GPT2,
        wanted=lambda _: {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        changes=dict.fromkeys(("c_attn.weight", "c_proj.weight", "c_fc.weight"), _transposed),
    ),
    "llama": Family(
        arch=gguf.MODEL_ARCH.LLAMA,
        wanted=lambda _: {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        changes=_LLAMA,
        rope_types=("default", "linear", "llama3"),
    ),
    "mistral": Family(
        arch=gguf.MODEL_ARCH.LLAMA, wanted=lambda _: {"hidden_act": "silu"}, changes=_LLAMA
    ),
    "qwen2": Family(
        arch=gguf.MODEL_ARCH.QWEN2,
        wanted=lambda _: {"hidden_act": "silu", "use_sliding_window": False},
    ),
    "qwen3": Family(
        arch=gguf.MODEL_ARCH.QWEN3,
        wanted=lambda _: {
            "hidden_act": "silu",
            "attention_bias": False,
            "use_sliding_window": False,
        },
    ),
    "gemma": Family(
        arch=gguf.MODEL_ARCH.GEMMA,
        wanted=lambda _: {
            "hidden_act": _GELU,
            "attention_bias": False,
            "use_bidirectional_attention": None,
            "tie_word_embeddings": True,
        },
        changes={"norm.weight": _plus_one},
    ),
    "gemma2": Family(
        arch=gguf.MODEL_ARCH.GEMMA2,
        wanted=lambda config: _later_gemma(config) | {"tie_word_embeddings": True},
        changes={"norm.weight": _plus_one},
        has_windows=True,
    ),
    "gemma3_text": Family(
        arch=gguf.MODEL_ARCH.GEMMA3,
        wanted=lambda config: (
            _later_gemma(config) | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        ),
        changes={"norm.weight": _plus_one},
        rope_types=("default", "linear"),
        has_windows=True,
    ),
    "phi3": Family(arch=gguf.MODEL_ARCH.PHI3, wanted=lambda _: {"hidden_act": "silu"}),
}


def check_settings(family: Family, config: PreTrainedConfig) -> None:
    """Raise ``UserError`` that names a setting with which llama.cpp does not compute."""
    for name, wanted in family.wanted(config).items():
        if (found := getattr(config, name, wanted)) != wanted:
            raise UserError(f"its {name} is {found!r}, and is exported as {wanted!r} alone")
    rope = _rope_of(config, "full_attention")
    if (kind := rope.get("rope_type", "default")) not in family.rope_types:
        raise UserError(f"its positions are scaled ({kind}), which is not exported")
    local = _rope_of(config, "sliding_attention")
    if family.has_windows and local.get("rope_type", "default") != "default":
        raise UserError("the positions of its windows are scaled, which is not exported")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("it turns a part of each head alone, which is not exported")


def add_settings(writer: gguf.GGUFWriter, family: Family, config: PreTrainedConfig) -> None:
    """Add what llama.cpp must know of a model, but for its tokenizer."""
    window = getattr(config, "sliding_window", None)
    length = config.max_position_embeddings
    if window and not family.has_windows:  # within one, no window is seen
        length = min(length, window)
    writer.add_context_length(length)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_dim = _head_dim(config)
    rope = _rope_of(config, "full_attention")
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if family.has_windows:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(_period(config))
        writer.add_rope_freq_base_swa(_rope_of(config, "sliding_attention")["rope_theta"])
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def rope_factors(config: PreTrainedConfig) -> Tensor | None:
    """Return by how much Llama 3 slows each pair of a head, or None for other models."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    slowed: Tensor
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    exponents = torch.arange(0, 2 * len(slowed), 2, dtype=torch.float32) / (2 * len(slowed))
    factors: Tensor = 1.0 / (rope["rope_theta"] ** exponents) / slowed
    return factors


def _head_dim(config: PreTrainedConfig) -> int:
    by_default = config.hidden_size // config.num_attention_heads
    return int(getattr(config, "head_dim", None) or by_default)


def _rope_of(config: PreTrainedConfig, layer_type: str) -> Mapping[str, Any]:
    """Return how positions turn heads in layers of a type; empty for GPT-2."""
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    of_type: Mapping[str, Any] = rope.get(layer_type, rope)
    return of_type
