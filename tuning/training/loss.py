"""The objective of fine-tuning: the nats of the target tokens of packed rows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from tuning.language_model.device import Device, targets_per_chunk
from tuning.language_model.loading import (
    decoder_blocks,
    has_plain_attention,
    reads_alone,
    router_coefficient,
)
from tuning.language_model.masks import attention_masks, by_layer
from tuning.packing import IGNORE_INDEX, attention_mask
from tuning.processes.sharding import Spread, shard
from tuning.training import attention_cpu, attention_gpu
from tuning.training.lora import head_of
from tuning.training.objective import Objective
from tuning.training.router_loss import RouterLoss

TARGETS_PER_SHAPE = 128
"""Chunks of targets are filled up to a multiple of it: oneDNN keeps code for every shape, for good,
and the heap, between whose large parts that lands, grew by 2 GB in 20 steps."""
_HAS_PLAIN_HEAD = "_has_plain_head"


class PackedLoss(Objective):
    """A model that takes packed rows and returns their summed loss alone.

    Logits are computed for target positions only, a chunk at a time, so those of a whole batch
    (``[B, T, V]``) never exist. That needs logits that are a plain product with the head's weight;
    a model with a bias, a scale or a cap there keeps its own logits.

    Compiled, each decoder block becomes one region; they share code, so it is compiled once.
    """

    def __init__(
        self, model: PreTrainedModel, device: Device, *, gradient_checkpointing: bool = False
    ) -> None:
        """Wrap a model in place: its blocks are compiled, its attention may be replaced."""
        super().__init__()
        if gradient_checkpointing:
            model.activation_checkpointing_enable()
        self.model = model
        self._has_plain_head = has_plain_head(model)
        if has_plain_attention(model) and not reads_alone(model):
            if device.kind == "cpu":
                model.set_attn_implementation(attention_cpu.NAME)
            elif device.compiled and attention_gpu.suits(model):
                model.set_attn_implementation(attention_gpu.NAME)
        self._router = RouterLoss(model) if router_coefficient(model) else None
        self._nll_to_gradient = nll_to_gradient
        if device.compiled:
            self._nll_to_gradient = torch.compile(nll_to_gradient, dynamic=True)
            for block in decoder_blocks(model):
                block.compile(dynamic=False)

    def forward(
        self,
        *,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Nats summed over the batch's targets, and the number of these; or both weighted.

        In training a router loss, if the model has one, is in the gradient and not in the sum.

        Args:
            input_ids: ``[B, T]``.
            labels: ``[B, T]``, unshifted; ``IGNORE_INDEX`` where there is no target.
            position_ids: ``[B, T]``, from 0 in each window.
            segment_ids: ``[B, T]``, equal within a window. A model that ``reads_alone`` takes one
                window per row, from its first token on.
            weights: ``[B, T]``, each target's share in both sums; None: 1.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
        if not reads_alone(self.model):
            inputs["position_ids"] = position_ids
            inputs["attention_mask"] = self._masks(segment_ids, position_ids)
        router = self._router if self.training else None
        if router is not None:
            inputs["output_router_logits"] = True
        is_target = labels[:, 1:] != IGNORE_INDEX
        shares = is_target if weights is None else weights[:, 1:] * is_target
        nll = self._nll(inputs, labels, weights)
        if router is not None:
            loss = router.of_pass(segment_ids, shares.sum(1))
            nll = nll + (loss - loss.detach())
        return nll, shares.sum()

    def _nll(self, inputs: dict[str, Any], labels: Tensor, weights: Tensor | None) -> Tensor:
        if not self._has_plain_head:
            return summed_nll(self.model(**inputs).logits, labels, weights)
        hidden = self.model.get_decoder()(**inputs).last_hidden_state
        head, rows, indices = head_of(self.model)
        nll: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, rows, indices, labels, weights, self._nll_to_gradient
        )
        return nll

    def _masks(
        self, segment_ids: Tensor, position_ids: Tensor
    ) -> Tensor | BlockMask | dict[str, Tensor] | dict[str, BlockMask]:
        """Return the masks in the form that the model's attention takes, made once per pass."""
        if self.model.config._attn_implementation == attention_gpu.NAME:
            make = partial(attention_gpu.block_mask, segment_ids)
            blocks: BlockMask | dict[str, BlockMask] = by_layer(self.model.config, make)
            return blocks
        visible = attention_mask(segment_ids)
        return attention_masks(self.model, visible, position_ids, position_ids)


def sharded_loss(
    spread: Spread[Any], device: Device, *, gradient_checkpointing: bool = False
) -> PackedLoss:
    """Wrap the model that the main process has made; each process takes its part of it."""
    loss = PackedLoss(spread.model, device, gradient_checkpointing=gradient_checkpointing)
    is_low = device.dtype != torch.float32
    shard(loss, decoder_blocks(spread.model), dtype=device.dtype if is_low else None)
    spread.fill(loss, device.kind)
    return loss


def summed_nll(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Nats summed over all targets, each times its weight.

    Args:
        logits: ``[B, T, V]``; ``logits[:, i]`` predicts token i + 1.
        labels: ``[B, T]``, unshifted; ``IGNORE_INDEX`` where there is no target.
        weights: ``[B, T]``; None: 1.
    """
    nll = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum" if weights is None else "none",
    )
    return nll if weights is None else (nll * weights[:, 1:].flatten()).sum()


def nll_to_gradient(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Summed nats of N targets; the logits become that sum's derivative by each of them.

    That is softmax minus one-hot, times the target's weight.

    Args:
        logits: ``[N, V]``, any floating type; written over.
        targets: ``[N]``.
        weights: ``[N]``; None: 1.

    Returns:
        A float32 scalar.
    """
    log_probabilities = logits.float().log_softmax(-1)
    nll = -log_probabilities.gather(1, targets[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    is_target = classes[None, :] == targets[:, None]
    gradient = log_probabilities.exp() - is_target.float()
    if weights is None:
        logits.copy_(gradient)
        return nll.sum()
    logits.copy_(gradient * weights[:, None])
    return (nll * weights[:, None]).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ weight.T``; the gradient is found in the forward pass.

    So each chunk's logits are computed once. What is allocated has one size, however many targets
    there are, so that it finds its place in the heap again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        rows: Tensor | None,
        indices: list[int],
        labels: Tensor,
        weights: Tensor | None,
        nll_to_gradient: Any,
    ) -> Tensor:
        """Sum over ``hidden[B, T, H]``, ``weight[V, H]`` and unshifted ``labels`` to a scalar.

        ``rows[N, H]``, if any, stand in place of the weight's at the N ``indices``.
        """
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wants_hidden, wants_weight, wants_rows = ctx.needs_input_grad[:3]
        next_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
        index = (next_labels != IGNORE_INDEX).nonzero().flatten()
        targets = next_labels[index]
        shares = None if weights is None else F.pad(weights[:, 1:], (0, 1)).flatten()[index]
        every_hidden = hidden.flatten(0, 1).to(dtype)
        low_weight = weight.to(dtype)
        if rows is not None:
            places = torch.tensor(indices, device=weight.device)
            low_weight = low_weight.index_copy(0, places, rows.to(dtype))
        num_rows = TARGETS_PER_SHAPE * math.ceil(len(every_hidden) / TARGETS_PER_SHAPE)
        low_hidden = every_hidden.new_zeros(num_rows, every_hidden.shape[1])
        torch.index_select(every_hidden, 0, index, out=low_hidden[: len(index)])
        low_gradient = torch.empty_like(low_hidden)
        most = targets_per_chunk(len(weight), dtype, kind)
        memory = low_hidden.new_empty(min(most, num_rows), len(weight))
        weight_gradient = torch.zeros_like(weight) if wants_weight else None
        rows_gradient = torch.zeros_like(rows) if rows is not None and wants_rows else None
        nll = torch.zeros((), device=hidden.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(index), most):
                here = slice(start, start + most)
                expected = targets[here]
                num_rows = TARGETS_PER_SHAPE * math.ceil(len(expected) / TARGETS_PER_SHAPE)
                chunk, logits = slice(start, start + num_rows), memory[:num_rows]
                torch.mm(low_hidden[chunk], low_weight.T, out=logits)
                # The rows that fill the chunk up are zeros, and so are their logits.
                share = None if shares is None else shares[here]
                nll += nll_to_gradient(logits[: len(expected)], expected, share)
                if wants_hidden:
                    torch.mm(logits, low_weight, out=low_gradient[chunk])
                if weight_gradient is not None:
                    weight_gradient += logits.T @ low_hidden[chunk]
                if rows_gradient is not None:
                    rows_gradient += logits[:, places].T @ low_hidden[chunk]
        hidden_gradient = None
        if wants_hidden:
            every_gradient = torch.zeros_like(every_hidden)
            every_gradient.index_copy_(0, index, low_gradient[: len(index)])
            hidden_gradient = every_gradient.to(hidden.dtype).view_as(hidden)
        ctx.save_for_backward(hidden_gradient, weight_gradient, rows_gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Scale what the forward pass found, where it stands: nobody asks twice."""
        found = ctx.saved_tensors
        scaled = (None if each is None else each.mul_(gradients[0]) for each in found)
        return *scaled, None, None, None, None


def has_plain_head(model: PreTrainedModel) -> bool:
    """Tell whether the logits are the last hidden state times the head's weight, no more.

    The model is asked once, with its weights at hand.
    """
    if not hasattr(model, _HAS_PLAIN_HEAD):
        setattr(model, _HAS_PLAIN_HEAD, _makes_plain_logits(model))
    found: bool = getattr(model, _HAS_PLAIN_HEAD)
    return found


@torch.no_grad()
def _makes_plain_logits(model: PreTrainedModel) -> bool:
    """One forward pass tells, bit by bit: a cap hardly changes logits while they are small."""
    head = model.get_output_embeddings()
    plain, _, _ = head_of(model)
    if type(plain) is not nn.Linear or plain.bias is not None:
        return False
    seen: list[Tensor | None] = []
    hooks = [
        model.get_decoder().register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.get("last_hidden_state"))
        ),
        head.register_forward_hook(lambda _module, inputs, output: seen.extend([*inputs, output])),
    ]
    ids = torch.arange(4, device=model.device)[None]
    inputs: dict[str, Any] = {}
    if not reads_alone(model):  # the attention may be ours already, which takes a mask
        # Boolean: beside bfloat16 a GPU's kernels take no mask of float32, or misread it.
        inputs["attention_mask"] = attention_mask(torch.zeros_like(ids))
        inputs["position_ids"] = ids
    logits = model(input_ids=ids, **inputs, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    if len(seen) != 3 or None in seen:
        return False
    last_hidden_state, head_input, head_output = seen
    return torch.equal(last_hidden_state, head_input) and torch.equal(head_output, logits)
