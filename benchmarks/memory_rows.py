"""The configurations of which ``benchmarks/memory.py`` compares plan and measurement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

NUM_TOKENS = 49_152
"""The vocabulary's, where the model's name does not say another."""
FEW_TOKENS = 8_192

SMOLLM2 = "SmolLM2-135M"
LARGE_VOCABULARY = "55 M, vocabulary of 128 k"
GPT2_MEDIUM = "GPT-2 Medium's shape"
QWEN3 = "Qwen 3's kind, 82 M, vocabulary of 8 k"
GEMMA3 = "Gemma 3's kind, 98 M"
GPT2_SMALL = "GPT-2's shape, 124 M"
SHALLOW = "3 wide layers, untied, 110 M"
EXPERTS = "Qwen 3's experts, 2 of 16, 131 M"
LFM2 = "LFM2's kind, 106 M"
MODELS: dict[str, PreTrainedConfig] = {
    LARGE_VOCABULARY: LlamaConfig(
        hidden_size=320,
        intermediate_size=1024,
        num_hidden_layers=10,
        num_attention_heads=5,
        num_key_value_heads=5,
        vocab_size=128_256,
        tie_word_embeddings=True,
    ),
    GPT2_MEDIUM: GPT2Config(
        n_embd=1024, n_layer=24, n_head=16, n_positions=2048, vocab_size=50_304
    ),
    QWEN3: Qwen3Config(
        hidden_size=768,
        intermediate_size=2304,
        num_hidden_layers=9,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=FEW_TOKENS,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ),
    GEMMA3: Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=128,
        layer_types=[*["sliding_attention"] * 5, "full_attention"] * 2,
        vocab_size=NUM_TOKENS,
        dtype="bfloat16",
    ),
    GPT2_SMALL: GPT2Config(vocab_size=NUM_TOKENS),
    SHALLOW: LlamaConfig(
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=3,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=FEW_TOKENS,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
    ),
    EXPERTS: Qwen3MoeConfig(  # type: ignore[call-arg]
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=8,
        num_experts=16,
        num_experts_per_tok=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=NUM_TOKENS,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ),
    LFM2: Lfm2Config(
        hidden_size=768,
        intermediate_size=2048,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=10,
        num_attention_heads=12,
        num_key_value_heads=4,
        full_attn_idxs=[2, 5, 8],
        layer_types=["full_attention" if i in (2, 5, 8) else "conv" for i in range(10)],
        vocab_size=NUM_TOKENS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
}
"""Random models by what the table calls them; SmolLM2 is the one of ``--model``."""


@dataclass(frozen=True)
class Row:
    """A configuration of a table."""

    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Parameters by their keys; the others are those of ``SHORT``."""
    scores: Literal["short", "long"] | None = None
    """The dialogues that are scored; None if the row trains."""

    @property
    def name(self) -> str:
        """What the table says."""
        changed = [f"{key.partition('.')[2]} {value}" for key, value in self.changes.items()]
        dialogues = [f"{self.scores} dialogues"] if self.scores else []
        return ", ".join([self.model, *changed, *dialogues])


COMPILED = {"train.torch_compile": True}
CHECKPOINTING = {"train.gradient_checkpointing": True}
ADAPTERS = {"train.lora.rank": 16}
DORA = ADAPTERS | {"train.lora.use_dora": True}
UNPACKED = {"train.packing": False}
BFLOAT16 = {"train.weights": "bfloat16"}
NF4 = {"train.lora.quantization": "nf4"}
INT8 = {"train.lora.quantization": "int8"}
FEW_BITS = {"train.weights": "bfloat16", "train.optimizer": "adamw_8bit"}
SCORE_BFLOAT16 = {"score.dtype": "bfloat16"}


def _tokens(batch_size: int, max_length: int) -> dict[str, Any]:
    return {"train.batch_size": batch_size, "encoding.max_length": max_length}


def _rows_at_once(batch_size: int) -> dict[str, Any]:
    return {"score.batch_size": batch_size}


KNOWN = (
    Row(SMOLLM2),
    Row(SMOLLM2, COMPILED),
    Row(SMOLLM2, CHECKPOINTING),
    Row(SMOLLM2, CHECKPOINTING | COMPILED),
    Row(SMOLLM2, UNPACKED | {"encoding.max_length": 256}),
    Row(SMOLLM2, _tokens(2, 1024)),
    Row(SMOLLM2, _tokens(1, 2048)),
    Row(SMOLLM2, FEW_BITS),
    Row(SMOLLM2, ADAPTERS),
    Row(SMOLLM2, ADAPTERS | {"encoding.template": "chat"}),
    Row(SMOLLM2, ADAPTERS | COMPILED),
    Row(SMOLLM2, ADAPTERS | NF4),
    Row(LARGE_VOCABULARY),
    Row(LARGE_VOCABULARY, ADAPTERS),
    Row(GPT2_MEDIUM, ADAPTERS | {"train.batch_size": 2}),
)
"""Those that the plan was made with."""
NEW = (
    Row(QWEN3),
    Row(QWEN3, COMPILED | _tokens(4, 384)),
    Row(QWEN3, ADAPTERS | CHECKPOINTING),
    Row(GEMMA3, _tokens(4, 768)),
    Row(GEMMA3, DORA | {"encoding.template": "chat"}),
    Row(GPT2_SMALL, {"train.batch_size": 4}),
    Row(GPT2_SMALL, ADAPTERS | COMPILED | _tokens(8, 384)),
    Row(SHALLOW, _tokens(8, 768)),
    Row(SHALLOW, ADAPTERS | INT8),
    Row(EXPERTS, {"train.batch_size": 4}),
    Row(EXPERTS, BFLOAT16),
    Row(LFM2, UNPACKED | _tokens(8, 384)),
    Row(SMOLLM2, BFLOAT16 | COMPILED),
    Row(SMOLLM2, {"train.mixed_precision": "no"} | _tokens(4, 384)),
)
"""Those that were chosen before any of them was measured."""
SCORED = (
    Row(SMOLLM2, _rows_at_once(4), "long"),
    Row(SMOLLM2, _rows_at_once(1), "short"),
    Row(SMOLLM2, _rows_at_once(8) | SCORE_BFLOAT16, "long"),
    Row(QWEN3, _rows_at_once(8), "long"),
    Row(GEMMA3, _rows_at_once(4) | SCORE_BFLOAT16, "short"),
    Row(GPT2_SMALL, _rows_at_once(1), "long"),
    Row(EXPERTS, _rows_at_once(4), "short"),
    Row(SHALLOW, _rows_at_once(8), "short"),
    Row(LFM2, _rows_at_once(4), "long"),
    Row(LFM2, _rows_at_once(8), "short"),
)
TABLES = {"known": KNOWN, "new": NEW, "scored": SCORED}
