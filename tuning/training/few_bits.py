"""What is kept in 8 or 4 bits: frozen weights (LLM.int8(), NF4) and AdamW's moments.

All of it is the package bitsandbytes', which runs on CPUs and GPUs and is loaded where it is used.
Dettmers et al. 2021 ("8-bit Optimizers"), 2022 ("LLM.int8()"), 2023 ("QLoRA").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import BitsAndBytesConfig

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says which kernels it has not


def quantization_config(kind: Literal["int8", "nf4"], compute: torch.dtype) -> BitsAndBytesConfig:
    """Return how transformers is to quantise the linear layers while it loads them.

    Args:
        kind: ``nf4`` quantises its own scales, too (double quantisation).
        compute: Type in which the products are computed.
    """
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def adamw(groups: Iterable[dict[str, Any]], *, is_paged: bool) -> Optimizer:
    """Return AdamW with 8-bit moments; of small parameters it keeps 32 bits.

    Args:
        groups: Parameters, each group with its weight decay.
        is_paged: Lets a GPU's driver move the moments to the host where memory is short.
    """
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    # On a CPU the paged one warns and does not page.
    is_paged = is_paged and torch.cuda.is_available()
    return (PagedAdamW8bit if is_paged else AdamW8bit)(groups)


def begin(optimizer: Any, parameter: Tensor, group: int, index: int) -> None:
    """Make the state of a parameter before its first update."""
    optimizer.init_state(optimizer.param_groups[group], parameter, group, index)
