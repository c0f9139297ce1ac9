"""The memory of a training step and of scoring, counted on tensors without contents.

The code that a stage runs is run once on such tensors; what they would take is counted as they come
and go, and laid out as on a heap. So a model of 8 billion parameters is counted in seconds, on any
machine. What the process itself takes was measured (docs/large-models.md).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from tools.preflight.meter import Meter
from tools.preflight.stand_ins import (
    FUSED,
    compile_blocks,
    fused_nll_to_gradient,
    in_few_bits,
    saved_bytes,
)
from tuning.language_model.device import TARGETS_PER_CHUNK, Device
from tuning.language_model.loading import (
    _READS_ALONE,
    decoder_blocks,
    has_plain_attention,
    reads_alone,
)
from tuning.language_model.masks import attention_masks
from tuning.processes.group import Processes
from tuning.run.params import ScoreParams, TrainParams
from tuning.scoring.nats import TREE_TOKENS
from tuning.scoring.written import ROWS_PER_DIALOGUE
from tuning.training.flops import flops_per_token, linear_shapes
from tuning.training.lora import adapts_experts, add_adapters
from tuning.training.loss import PackedLoss, nll_to_gradient
from tuning.training.optimizer import Optimizer
from tuning.training.passes import Passes
from tuning.training.start import embedding_weights
from tuning.writing.row_cache import SLOTS_AT_ONCE

WIDTHS = (128, 256, 512)
"""Tokens of the rows that scoring reads, one width after the other."""
NUM_NEW_TOKENS = 8
"""Rows that templates other than chat add to the embeddings, at most usually."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Bytes of one training process."""

    weights: int
    """Of all weights, as training holds them."""
    trained: int
    """Of those that are trained; their gradients take as much."""
    moments: int
    """Of what the optimizer keeps of them."""
    published: int
    """Of the model's weights in the base model's own type."""
    largest_part: int
    """Of the most weights that a process gathers at once where the model is sharded."""
    passing: int
    """The most at once besides weights, gradients and moments: what a pass keeps for its gradients,
    and the logits."""
    lost: int
    """Of a heap, between the tensors: its end less the most that is held at once."""
    mapped: int
    """Of the base model's file, what stays mapped into memory though something else has taken its
    place: embeddings with rows for new tokens, weights of few bits."""
    unfused: int
    """Of the loss of a chunk of targets, besides its logits, where it is not compiled."""
    flops_per_token: tuple[int, int]
    """As ``tuning.training.flops.flops_per_token`` has them."""
    shapes: Counter[tuple[int, int]]
    """Of linear layers, by (inputs, outputs)."""
    compiled: bool
    """Whether the model is compiled, if that is asked for."""


@dataclass(frozen=True, kw_only=True)
class CountedScoring:
    """Bytes of scoring."""

    weights: int
    passing: int
    """The most at once besides; on a CPU, what the heap grows to."""


def count_training(
    config: PreTrainedConfig,
    train: TrainParams,
    *,
    max_length: int,
    device: Device,
    has_new_tokens: bool,
    num_processes: int = 1,
) -> Counted:
    """Count two training steps: the second finds the heap as the first has left it.

    Args:
        config: The base model's.
        train: Hyperparameters.
        max_length: Tokens of a row.
        device: Where it would be trained; need not be here.
        has_new_tokens: Whether the template adds tokens.
        num_processes: Processes that share the rows of a step.
    """
    here = replace(device, kind="cpu", compiled=False)
    own, held = _own_type(config), _held_type(config, train, device)
    with Meter() as meter:
        model = _empty_model(config, held)
        embeddings = sum(map(_size, embedding_weights(model)))
        published = sum(each.numel() for each in model.parameters()) * own.itemsize
        if train.lora.quantization is not None:
            in_few_bits(model, train.lora.quantization, device.dtype)
        if train.lora.rank is not None:
            add_adapters(model, train.lora, range(NUM_NEW_TOKENS if has_new_tokens else 0))
        compiled = device.compiled and not reads_alone(model) and not adapts_experts(model)
        objective = PackedLoss(model, here, gradient_checkpointing=train.gradient_checkpointing)
        objective.train()
        if device.kind == "cuda":
            model.set_attn_implementation(FUSED)
        if compiled:
            objective._nll_to_gradient = fused_nll_to_gradient
            compile_blocks(model, meter)
        optimizer = Optimizer(objective, train)
        trained = [each for each in model.parameters() if each.requires_grad]
        passes = Passes(
            objective=objective,
            train=train,
            max_length=max_length,
            device=device,
            processes=Processes(size=num_processes),
        )
        rows_per_step = train.batch_size * train.gradient_accumulation_steps
        adds_up = passes.rows_per_pass * num_processes < rows_per_step
        shapes = linear_shapes(model)
        meter.peak = before = meter.now
        for _ in range(2):
            for _ in range(2 if adds_up else 1):
                _pass(passes, here)
            optimizer.step()
            optimizer.zero_grad()
        moments = meter.now - before
        flops = flops_per_token(model)
        peak, lost = meter.peak, meter.heap.top - meter.peak
        unfused = _count_unfused(meter, len(model.get_output_embeddings().weight), device.dtype)
    mapped = embeddings if has_new_tokens else 0
    if train.lora.quantization is not None:
        mapped += published - embeddings
    weights, of_trained = sum(map(_size, model.parameters())), sum(map(_size, trained))
    blocks = [sum(map(_size, block.parameters())) for block in decoder_blocks(model)]
    return Counted(
        weights=weights - saved_bytes(model, train.lora.quantization),
        trained=of_trained,
        moments=moments,
        published=published,
        largest_part=max([*blocks, weights - sum(blocks)]),
        passing=peak - weights - of_trained - moments,
        lost=lost,
        mapped=mapped if own == held else 0,
        unfused=unfused,
        flops_per_token=flops,
        shapes=shapes,
        compiled=compiled,
    )


def count_scoring(
    config: PreTrainedConfig, score: ScoreParams, *, kind: Literal["cpu", "cuda"]
) -> CountedScoring:
    """Count scoring: passes that read, in float32, and the rows that write beside each other.

    With ``score.dtype`` bfloat16, too, a sample is read in float32, and both models are there until
    the second is loaded.
    """
    with Meter() as meter, torch.no_grad():  # inference_mode would hide what operations hold
        model = _empty_model(config, torch.float32)
        weights = sum(map(_size, model.parameters()))
        meter.begin()
        for width in WIDTHS:
            _read(model, score.batch_size * TREE_TOKENS // width, width)
        passing = meter.heap.top if kind == "cpu" else meter.peak
        ids = torch.zeros(1, TREE_TOKENS, dtype=torch.int64)
        before = meter.now
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        cache = getattr(output, "past_key_values", None) or getattr(output, "cache_params", None)
        del output
        per_token = (meter.now - before) / TREE_TOKENS if cache else 0
        packed = _packed(model, is_mapped=_own_type(config) == torch.float32)
    slots = SLOTS_AT_ONCE * math.ceil((TREE_TOKENS + score.max_new_tokens) / SLOTS_AT_ONCE)
    # States have one size, and are counted as if they grew: by a half too high at most.
    written = int(per_token * slots * ROWS_PER_DIALOGUE * score.batch_size)
    if score.dtype == "bfloat16":
        passing = max(passing, weights // 2)
    elif kind == "cpu":
        written += packed
    return CountedScoring(weights=weights, passing=max(passing, written))


def _read(model: PreTrainedModel, num_rows: int, width: int) -> None:
    """Read rows as scoring does: their logits, and the nats of a chunk of them."""
    ids = torch.zeros(num_rows, width, dtype=torch.int64)
    inputs: dict[str, Any] = {}
    if not reads_alone(model):
        visible = torch.ones(num_rows, 1, width, width, dtype=torch.bool)
        masks = attention_masks(model, visible, ids, ids)
        inputs = {"position_ids": ids, "attention_mask": masks}
    logits = model(input_ids=ids, **inputs, use_cache=False).logits.flatten(0, 1)
    targets = ids.flatten()[:TARGETS_PER_CHUNK]
    nn.functional.cross_entropy(logits[targets], targets)


def _packed(model: PreTrainedModel, *, is_mapped: bool) -> int:
    """Return what linear layers take besides, in the order in which a CPU's kernels read them.

    What is mapped into memory from a file stays there all the same, and so do tied embeddings.
    """
    layers = [each for each in model.modules() if isinstance(each, nn.Linear | Conv1D)]
    head = model.get_output_embeddings()
    is_tied = head.weight is model.get_input_embeddings().weight
    return sum(_size(each.weight) for each in layers if is_mapped or (each is head and is_tied))


def _pass(passes: Passes, device: Device) -> None:
    """Go forward and back through the model, on this device."""
    ids = torch.zeros(passes.rows_per_pass, passes.max_length, dtype=torch.int64)
    with replace(passes, device=device).autocast(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said where a model is trained
        total, _ = passes.objective(input_ids=ids, labels=ids, position_ids=ids, segment_ids=ids)
    total.backward()  # type: ignore[no-untyped-call]


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model as ``load_plain_model`` would, by what its layers look like."""
    make = partial(AutoModelForCausalLM.from_config, dtype=dtype)
    try:
        model: PreTrainedModel = make(deepcopy(config), attn_implementation="sdpa")
    except ValueError:
        model = make(deepcopy(config), attn_implementation="eager")
    has_own_mask = not has_plain_attention(model) and not model._supports_attention_backend
    is_hybrid = model._is_stateful or any(isinstance(each, nn.Conv1d) for each in model.modules())
    setattr(model, _READS_ALONE, has_own_mask or is_hybrid)
    model.config.use_cache = False
    return model


def _held_type(config: PreTrainedConfig, train: TrainParams, device: Device) -> torch.dtype:
    if train.lora.rank is None:
        return torch.bfloat16 if train.weights == "bfloat16" else torch.float32
    return device.dtype if _own_type(config) == device.dtype else torch.float32


def _own_type(config: PreTrainedConfig) -> torch.dtype:
    dtype = config.dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _count_unfused(meter: Meter, num_tokens: int, dtype: torch.dtype) -> int:
    logits = torch.zeros(TARGETS_PER_CHUNK, num_tokens, dtype=dtype)
    before = meter.peak = meter.now
    nll_to_gradient(logits, torch.zeros(TARGETS_PER_CHUNK, dtype=torch.int64), None)
    return meter.peak - before


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
