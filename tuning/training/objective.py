"""The objective that a training lowers: the one thing that the loop does not know.

Another objective is another module of this form. It says of a batch what it costs; the loop divides
by the count of the whole optimizer step, over all batches and processes, so that accumulation and
the number of processes change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel


class Objective(nn.Module):
    """A module that takes a batch and returns the sum of its costs and that of their weights."""

    model: PreTrainedModel
    """The model whose parameters are trained."""

    if TYPE_CHECKING:

        def __call__(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
            """Take a batch as the rows are collated; return both sums, scalars."""
