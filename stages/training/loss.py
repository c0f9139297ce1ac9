"""The loss of packed rows: nats per target token of the whole optimizer step."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.device import Device
from stages.encoding.packing import IGNORE_INDEX, attention_mask
from stages.training import attention

TARGETS_PER_CHUNK = 1024


class PackedLoss(nn.Module):
    """A model that takes packed rows and returns their summed loss alone.

    Logits are computed for target positions only, a chunk at a time, so those of a whole batch
    (``[B, T, V]``) never exist. That needs logits that are a plain product with the head's weight;
    a model with a bias, a scale or a cap there keeps its own logits.

    Compiled, each decoder block becomes one region; they share code, so it is compiled once.
    """

    def __init__(self, model: PreTrainedModel, device: Device) -> None:
        """Wrap a model in place: its blocks are compiled, its attention may be replaced."""
        super().__init__()
        self.model = model
        self._on_cpu = device.kind == "cpu"
        if self._on_cpu:
            model.set_attn_implementation(attention.NAME)
        self._has_plain_head = _has_plain_head(model)
        self._nll_and_gradient = nll_and_gradient
        if device.compiled:
            self._nll_and_gradient = torch.compile(nll_and_gradient, dynamic=True)
            for block in decoder_blocks(model):
                block.compile(dynamic=False)

    def forward(
        self,
        *,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        num_targets: int,
    ) -> Tensor:
        """Nats summed over the batch's targets, divided by ``num_targets``.

        Args:
            input_ids: ``[B, T]``.
            labels: ``[B, T]``, unshifted; ``IGNORE_INDEX`` where there is no target.
            position_ids: ``[B, T]``, from 0 in each window.
            segment_ids: ``[B, T]``, equal within a window.
            num_targets: Those of the whole optimizer step, in all batches and processes.
        """
        mask = attention_mask(segment_ids)
        if self._on_cpu:
            mask = torch.where(mask, 0.0, -math.inf)
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "position_ids": position_ids,
            "use_cache": False,
        }
        if not self._has_plain_head:
            return summed_nll(self.model(**inputs).logits, labels) / num_targets
        hidden = self.model.get_decoder()(**inputs).last_hidden_state
        is_target = labels[:, 1:] != IGNORE_INDEX
        nll: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden[:, :-1][is_target],
            self.model.get_output_embeddings().weight,
            labels[:, 1:][is_target],
            self._nll_and_gradient,
        )
        return nll / num_targets


def summed_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Nats summed over all targets.

    Args:
        logits: ``[B, T, V]``; ``logits[:, i]`` predicts token i + 1.
        labels: ``[B, T]``, unshifted; ``IGNORE_INDEX`` where there is no target.
    """
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def nll_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed nats of N targets, and the sum's derivative by each logit (softmax minus one-hot).

    Args:
        logits: ``[N, V]``, any floating type.
        targets: ``[N]``.

    Returns:
        A float32 scalar, and ``[N, V]`` in the logits' type.
    """
    log_probabilities = logits.float().log_softmax(-1)
    nll = -log_probabilities.gather(1, targets[:, None]).sum()
    classes = torch.arange(logits.shape[1], device=logits.device)
    is_target = classes[None, :] == targets[:, None]
    gradient = log_probabilities.exp() - is_target.float()
    return nll, gradient.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ weight.T``; the gradient is found in the forward pass.

    So each chunk's logits are computed once and dropped at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, nll_and_gradient: Any
    ) -> Tensor:
        """``hidden`` ``[N, H]``, ``weight`` ``[V, H]``, ``targets`` ``[N]`` to a scalar."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        num_chunks = max(1, math.ceil(len(targets) / TARGETS_PER_CHUNK))
        low_weight = weight.to(dtype)
        hidden_gradients = []
        weight_gradient = torch.zeros_like(weight) if wants_weight else None
        nll = torch.zeros((), device=hidden.device)
        with torch.autocast(kind, enabled=False):
            for part, expected in zip(
                hidden.to(dtype).chunk(num_chunks), targets.chunk(num_chunks), strict=True
            ):
                chunk_nll, gradient = nll_and_gradient(part @ low_weight.T, expected)
                nll += chunk_nll
                if wants_hidden:
                    hidden_gradients.append(gradient @ low_weight)
                if weight_gradient is not None:
                    weight_gradient += gradient.T @ part
        hidden_gradient = torch.cat(hidden_gradients).to(hidden.dtype) if wants_hidden else None
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Scale what the forward pass found."""
        return *(None if x is None else x * gradients[0] for x in ctx.saved_tensors), None, None


@torch.no_grad()
def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the last hidden state times the head's weight and nothing more.

    Asked bit by bit of one forward pass: a cap hardly changes logits while they are small.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    seen: list[Tensor] = []
    hooks = [
        model.get_decoder().register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.last_hidden_state)
        ),
        head.register_forward_hook(lambda _module, inputs, output: seen.extend([*inputs, output])),
    ]
    device = model.device
    logits = model(
        input_ids=torch.arange(4, device=device)[None],
        attention_mask=torch.full((4, 4), -math.inf, device=device).triu(1)[None, None],
        position_ids=torch.arange(4, device=device)[None],
        use_cache=False,
    ).logits
    for hook in hooks:
        hook.remove()
    if len(seen) != 3:
        return False
    last_hidden_state, head_input, head_output = seen
    return torch.equal(last_hidden_state, head_input) and torch.equal(head_output, logits)


def decoder_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The outermost list of as many modules as the model has layers; empty without one."""
    num_layers = model.config.get_text_config().num_hidden_layers
    lists = (list(module) for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((modules for modules in lists if len(modules) == num_layers), [])
