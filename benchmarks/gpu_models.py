"""Llama-shaped models with random weights, made where they compute, and made-up dialogues.

Nothing is downloaded, and ``params.yaml`` is not read: what reads it may not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tuning.training.few_bits import quantization_config
from tuning.training.rows import PackedRows
from tuning.windows import WindowWriter

if TYPE_CHECKING:
    from tuning.run.params import TrainParams

SEED = 42
TURN = 16
"""Tokens of a turn; every other turn is trained."""
LORA = {
    "rank": None,
    "alpha": 32,
    "targets": "all-linear",
    "use_rslora": False,
    "use_dora": False,
    "quantization": None,
}
TRAIN = {
    "learning_rate": 5e-5,
    "optimizer": "adamw",
    "weights": "float32",
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "epochs": 1,
    "max_steps": None,
    "mixed_precision": "bf16",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "packing": True,
    "gradient_checkpointing": False,
    "eval_steps": None,
    "eval_windows": 64,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "torch_compile": True,
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model's shape, in the names of its configuration, and how it is trained here."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    max_length: int = 2048
    """Tokens of a packed row, and the most of a dialogue."""
    gb_per_row: float
    """Gigabytes of a device's memory for each row of a forward pass; eight rows at most."""
    num_steps: int
    """Optimizer steps that are timed, a few seconds of them."""

    @property
    def config(self) -> LlamaConfig:
        """The model's configuration."""
        own = {"max_length", "gb_per_row", "num_steps"}
        shape = {name: value for name, value in vars(self).items() if name not in own}
        return LlamaConfig(**shape, max_position_embeddings=self.max_length)

    def rows_per_pass(self, memory_gb: float) -> int:
        """Rows of a forward pass on a device with so much memory."""
        return max(1, min(8, int(memory_gb / self.gb_per_row)))


SIZES = {
    "135M": Size(  # SmolLM2's
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
        gb_per_row=3,
        num_steps=30,
    ),
    "1B": Size(  # Llama 3.2's
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        tie_word_embeddings=True,
        gb_per_row=10,
        num_steps=12,
    ),
    "8B": Size(  # Llama 3.1's
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        tie_word_embeddings=False,
        gb_per_row=34,
        num_steps=8,
    ),
    "small": Size(  # whose checkpoints are written in a moment
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=8192,
        tie_word_embeddings=True,
        max_length=512,
        gb_per_row=1,
        num_steps=6,
    ),
    "tiny": Size(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
        tie_word_embeddings=True,
        max_length=128,
        gb_per_row=0.1,
        num_steps=6,
    ),
}


def make_model(size: Size, dtype: torch.dtype, kind: str) -> PreTrainedModel:
    """Return a model of random weights, the same for every call on a kind of device."""
    torch.manual_seed(SEED)
    with torch.device(kind):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            size.config, dtype=dtype, attn_implementation="sdpa"
        )
    model.config.use_cache = False
    return model


def make_quantised_model(size: Size, kind: str) -> PreTrainedModel:
    """Return the model with linear layers in 4 bits, quantised as transformers does in loading."""
    weights = make_model(size, torch.bfloat16, kind).state_dict()
    model = LlamaForCausalLM.from_pretrained(
        None,
        config=size.config,
        state_dict=weights,
        dtype=torch.bfloat16,
        device_map=kind,
        attn_implementation="sdpa",
        quantization_config=quantization_config("nf4", torch.bfloat16),
    )
    model.config.use_cache = False
    return cast("PreTrainedModel", model)


def make_rows(folder: Path, size: Size, num_rows: int) -> PackedRows:
    """Write random windows and pack them into about so many rows.

    Their lengths are spread as dialogues' are: the middle one takes a sixth of a row, one in
    twenty half of it and more.
    """
    draws = np.random.default_rng(SEED)
    num_left = num_rows * size.max_length
    folder.mkdir()
    with WindowWriter(folder) as windows:
        while num_left > 0:
            length = int(np.clip(size.max_length / 6 * draws.lognormal(0, 0.7), 8, size.max_length))
            ids = draws.integers(size.vocab_size, size=length, dtype=np.int32)
            is_target = np.arange(length) // TURN % 2 == 1
            is_target[-1] = True
            windows.add(ids, is_target, [length])
            num_left -= length
    return PackedRows(folder, max_length=size.max_length, packing=True, pad_token_id=0)


def train_params(lora: Mapping[str, Any] | None = None, **changes: Any) -> TrainParams:
    """Return the recipe with changes, in the form of ``params.yaml``'s section."""
    adapters = SimpleNamespace(**LORA | dict(lora or {}))
    return cast("TrainParams", SimpleNamespace(**TRAIN | changes, lora=adapters))
