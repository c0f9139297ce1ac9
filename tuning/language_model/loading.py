"""A language model as training and scoring take it: no text sees another.

Both put several texts into one row and hide them from each other by a mask. Some models have layers
(state spaces, linear attention, convolutions) that read a row from left to right whatever the mask
says: each text would be trained and scored as if its neighbour stood before it, without any error.
So a model is asked, before anything is made of it, whether it keeps two texts apart. One that does
not gets a row for each text, filled up on the right, where no token sees it: ``reads_alone``.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)

from tuning.language_model.in_parts import read_part
from tuning.language_model.masks import attention_masks
from tuning.run.errors import UserError, first_line

LENGTHS = (7, 11)
"""Tokens of the two texts."""
NEAREST = 4
"""Tokens that a layer sees meanwhile, if it does not see all."""
TOLERANCE = 1e-3
"""The largest difference that counts as none, in units of the logits' standard deviation.
Rounding to float32 moves logits by at most 1e-5 of it, what is carried over from the other text by
5e-2 and more (small random models of 50 kinds)."""
LOW_TOLERANCE = 0.15
"""The same where weights or products are of fewer bits than float32, of the median token: rounding
moves that by at most 4e-2, and a token that goes to another expert by more than its size. So there
another neighbour is tried, too: which changes nothing at all."""
_READS_ALONE = "_reads_alone"
_ROUTER_COEFFICIENT = "_router_coefficient"


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
        UserError: the model cannot be run, or texts see each other even in rows of their own.
    """
    try:
        # Read first, for in a call that reads it the configuration's own word on attention wins.
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        text = config.get_text_config()
        has_router_loss = getattr(text, "output_router_logits", False)
        if has_router_loss:  # else every pass makes a loss, and takes no mask of ours
            text.output_router_logits = False
        load = partial(
            AutoModelForCausalLM.from_pretrained,
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            device_map=device_map,
            quantization_config=quantization,
        )
        try:
            model: PreTrainedModel = load(attn_implementation="sdpa")
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            model = load(attn_implementation="eager")  # capped scores, or none at all
        for layer in model.modules():  # a CPU would repack 4-bit weights, if their shape allows
            if "support_avx512bf16_for_cpu" in vars(layer):
                vars(layer)["support_avx512bf16_for_cpu"] = False
        if has_router_loss:
            setattr(model, _ROUTER_COEFFICIENT, getattr(model, "router_aux_loss_coef", 0.0))
        is_fit = keeps_apart(model)
        if not is_fit:
            setattr(model, _READS_ALONE, True)
            is_fit = keeps_rows_apart(model)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a configuration can make of Python
        raise UserError(
            f"model.name: transformers cannot run this model ({type(error).__name__}: "
            f"{first_line(error)}). Download or save it again, or name another."
        ) from error
    if not is_fit:
        kind = config.model_type
        raise UserError(
            f"model.name: {kind} models cannot be used here: what they say of a text depends on "
            "the texts beside it, or on what fills up its row. Name a model of another kind."
        )
    return model


def reads_alone(model: PreTrainedModel) -> bool:
    """Tell whether each text needs a row of its own in this model, which is loaded."""
    return getattr(model, _READS_ALONE, False)


def router_coefficient(model: PreTrainedModel) -> float:
    """Return the factor of the router loss that the model's configuration asks for; 0: none."""
    return getattr(model, _ROUTER_COEFFICIENT, 0.0)


@torch.no_grad()
def keeps_apart(model: PreTrainedModel) -> bool:
    """Tell whether two texts in one row, hidden from each other, get the logits of each alone.

    Layers that do not see everything before see so little meanwhile that the texts exceed it.
    """
    texts = two_texts(model)
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None].to(model.device)
    owner = torch.arange(len(texts)).repeat_interleave(torch.tensor(LENGTHS)).to(model.device)
    visible = (owner[:, None] == owner).tril()[None, None]
    with short_reach(model.config.get_text_config()):
        alone = [logits_of(model, text[None])[0] for text in texts]
        if not has_plain_attention(model) and not model._supports_attention_backend:
            return False  # a mask of its own
        one, other = texts
        try:
            masks = attention_masks(model, visible, positions, positions)
            together, beside_another = (
                logits_of(
                    model, torch.cat(row)[None], position_ids=positions, attention_mask=masks
                )[0]
                for row in ((one, other), (one.flip(0), other))
            )
        except Exception:  # whatever layers make of a mask that is not for them
            return False
    error = (together - beside_another)[len(one) :].abs().max() / together.std()
    return not error > TOLERANCE and is_same(model, together, torch.cat(alone))


@torch.no_grad()
def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Tell whether texts in rows of their own, filled up on the right, get the logits of each.

    And whether a text does that is read in two parts, as it is while it is written.
    """
    texts = two_texts(model)
    alone = torch.cat([logits_of(model, text[None])[0] for text in texts])
    rows = pad_sequence(texts, batch_first=True)
    is_text = torch.arange(rows.shape[1]) < torch.tensor(LENGTHS)[:, None]
    found = logits_of(model, rows, logits_to_keep=is_text.to(model.device))
    ids = texts[-1].tolist()
    cache = DynamicCache(config=model.config)
    bounds = [0, *range(LENGTHS[0], LENGTHS[-1] + 1)]
    in_parts = [read_part(model, ids[a:b], cache, a) for a, b in pairwise(bounds)]
    return is_same(model, found.view_as(alone), alone) and is_same(
        model, torch.cat(in_parts), alone[-len(in_parts) :]
    )


def has_plain_attention(model: PreTrainedModel) -> bool:
    """Tell whether attention is a softmax of products and a mask, with nothing beside them."""
    return bool(model._supports_sdpa)


def decoder_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The outermost list of as many modules as the model has layers; empty without one."""
    num_layers = model.config.get_text_config().num_hidden_layers
    lists = (list(module) for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((modules for modules in lists if len(modules) == num_layers), [])


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
    """The most tokens of a text: the model's positions."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def two_texts(model: PreTrainedModel) -> list[Tensor]:
    """Token ids of two texts of ``LENGTHS``, of which a model is asked."""
    num_ids = model.config.get_text_config().vocab_size
    return [(torch.arange(1, length + 1) * 97 % num_ids).to(model.device) for length in LENGTHS]


def logits_of(model: PreTrainedModel, input_ids: Tensor, **inputs: Any) -> Tensor:
    """Return the logits ``[B, T, V]`` of whole rows."""
    result: Tensor = model(input_ids=input_ids, **inputs, use_cache=False).logits
    return result


def is_same(model: PreTrainedModel, found: Tensor, expected: Tensor) -> bool:
    """Tell whether logits ``[N, V]`` differ by no more than rounding in a model of its type.

    Raises:
        ValueError: what is expected is not a number.
    """
    if expected.isnan().any():
        raise ValueError("what it says of a text is not a number, as if weights were damaged")
    errors = (found - expected).abs().amax(dim=-1) / expected.std()
    is_exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    is_other = errors.max() > TOLERANCE if is_exact else errors.median() > LOW_TOLERANCE
    return not is_other


@contextmanager
def short_reach(config: PreTrainedConfig) -> Iterator[None]:
    """Let layers that do not see everything before see ``NEAREST`` tokens."""
    names = ("sliding_window", "attention_chunk_size")
    found = {name: far for name in names if (far := getattr(config, name, None))}
    for name in found:
        setattr(config, name, NEAREST)
    try:
        yield
    finally:
        for name, far in found.items():
            setattr(config, name, far)
