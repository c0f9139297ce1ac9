"""The router loss of a mixture of experts, which rises as tokens are sent to fewer experts.

Per row of tokens: E · Σ f(e) · p(e), where of E experts f(e) is the share of the row's tokens that
are sent to expert e, and p(e) the router's mean probability of it, both over all layers (Fedus et
al. 2022, equations 4 to 6, as transformers has it). It is no sum over tokens, so over what it is
taken matters: here over each row, and a step's rows count by the weight of their targets. So
neither the batch size nor accumulation nor the number of processes changes it; which windows share
a row does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tuning.language_model.loading import router_coefficient
from tuning.packing import PAD_SEGMENT


class RouterLoss:
    """Takes what the routers of a model say in each of its passes."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Listen to a mixture of experts, of which passes ask for ``output_router_logits``."""
        self._coefficient = router_coefficient(model)
        self._num_chosen = int(model.num_experts_per_tok)  # type: ignore[arg-type]
        self._logits: Sequence[Tensor] = ()
        model.get_decoder().register_forward_hook(self._take)

    def _take(self, _module: object, _inputs: object, output: Any) -> None:
        """Take the logits out: of those it finds, transformers makes a loss of the whole batch."""
        self._logits = getattr(output, "router_logits", None) or ()
        output.router_logits = None

    def of_pass(self, segment_ids: Tensor, weights: Tensor) -> Tensor:
        """Sum the losses of the last pass's rows, each times its weight.

        Args:
            segment_ids: ``[B, T]``; pad tokens do not count.
            weights: ``[B]``.
        """
        losses = by_row(self._logits, self._num_chosen, segment_ids != PAD_SEGMENT)
        self._logits = ()
        return self._coefficient * (losses * weights).sum()


def by_row(router_logits: Sequence[Tensor], num_chosen: int, counts: Tensor) -> Tensor:
    """Return the loss of each row, ``[B]``; 0 for one without a token that counts.

    Args:
        router_logits: Per layer, ``[B * T, E]``.
        num_chosen: Experts that a token is sent to.
        counts: Boolean ``[B, T]``.
    """
    is_counted = counts[:, :, None].float()
    num_sent = probability = torch.zeros((), device=counts.device)
    for logits in router_logits:
        shares = logits.float().softmax(-1).view(*counts.shape, -1)
        chosen = torch.zeros_like(shares).scatter(-1, shares.topk(num_chosen).indices, 1.0)
        num_sent = num_sent + (chosen * is_counted).sum(1)
        probability = probability + (shares * is_counted).sum(1)
    num_tokens = len(router_logits) * is_counted.sum(1).clamp(min=1)
    return shares.shape[-1] * (num_sent / num_tokens * (probability / num_tokens)).sum(-1)
