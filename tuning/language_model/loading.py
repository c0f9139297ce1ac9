"""A language model as training and scoring take it: a token sees what a mask shows it, no more.

Both put several texts into one row and hide them from each other by a mask. Some models have layers
(state spaces, linear attention, convolutions) that read a row from left to right whatever the mask
says: each text would be trained and scored as if its neighbour stood before it, without any error.
So a model is asked, before anything is made of it, whether it keeps two texts apart.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from tuning.run.errors import UserError, first_line

LENGTHS = (7, 11)
"""Tokens of the two texts."""
TOLERANCE = 1e-3
"""The largest difference that counts as none, in units of the logits' standard deviation.
Rounding to float32 moves logits by at most 1e-5 of it, what is carried over from the other text by
5e-2 and more (small random models of 40 kinds)."""
LOW_TOLERANCE = 4e-2
"""The same where weights or products are of fewer bits than float32."""


def load_plain_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """The model, ready to score.

    Args:
        folder: A model in transformers' form.
        dtype: Type of its weights.
        device_map: Where its weights go; the CPU by default.
        quantization: How the linear layers' weights are kept in fewer bits.

    Raises:
        UserError: the model cannot be run, or not every token sees just what a mask shows it.
    """
    try:
        # Read first, for in a call that reads it the configuration's own word on attention wins.
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            device_map=device_map,
            quantization_config=quantization,
        )
        for layer in model.modules():  # a CPU would repack 4-bit weights, if their shape allows
            if "support_avx512bf16_for_cpu" in vars(layer):
                vars(layer)["support_avx512bf16_for_cpu"] = False
        is_fit = keeps_apart(model)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a configuration can make of Python
        if "scaled_dot_product_attention" in str(error):
            fault = "transformers has no scaled_dot_product_attention for them"
            raise _refusal(folder, fault) from error
        raise UserError(
            f"model.name: transformers cannot run this model ({type(error).__name__}: "
            f"{first_line(error)}). Download or save it again, or name another."
        ) from error
    if not is_fit:
        raise _refusal(folder, "some of their layers mix what a mask keeps apart")
    return model


@torch.no_grad()
def keeps_apart(model: PreTrainedModel) -> bool:
    """Tell whether two texts in one row, hidden from each other, get the logits of each alone."""
    num_ids = model.config.get_text_config().vocab_size
    texts = [torch.arange(1, length + 1) * 97 % num_ids for length in LENGTHS]
    positions = [torch.arange(length) for length in LENGTHS]
    owner = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    mask = (owner[:, None] == owner).tril()

    def logits(**inputs: torch.Tensor) -> torch.Tensor:
        inputs = {name: one[None].to(model.device) for name, one in inputs.items()}
        result: torch.Tensor = model(**inputs, use_cache=False).logits[0]
        return result

    together = logits(
        input_ids=torch.cat(texts), position_ids=torch.cat(positions), attention_mask=mask[None]
    )
    alone = torch.cat([logits(input_ids=text) for text in texts])
    is_exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    tolerance = TOLERANCE if is_exact else LOW_TOLERANCE
    is_mixed = (together - alone).abs().max() > tolerance * alone.std()
    return not is_mixed  # not a number: for the loss to find


def own_dtype(folder: Path) -> torch.dtype:
    """Return the floating type of most of a model's weights, as its files hold them."""
    counts: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no dict
                part = weights.get_slice(name)
                counts[part.get_dtype()] += math.prod(part.get_shape())
    ((most, _),) = counts.most_common(1)
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)


def num_visible(config: PreTrainedConfig) -> int:
    """The most tokens that one sees, itself included: all positions, or a sliding window."""
    config = config.get_text_config()
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min((limit for limit in limits if limit), default=sys.maxsize)


def _refusal(folder: Path, fault: str) -> UserError:
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return UserError(
        f"model.name: {kind} models cannot be trained here, for their attention is not the plain "
        f"one: {fault}."
    )
