"""Nats per token under a model, for sequences that share a forward pass without seeing each other.

A sequence is laid out in segments (see ``stages.encoding.packing``). Segment 0 is a prefix that all
later segments see; every other segment sees the prefix and itself. So ten responses to one context
cost one pass over the context::

    input_ids     c0 c1 c2 | x0 x1 | y0 y1
    segment_ids    0  0  0 |  1  1 |  2  2
    position_ids   0  1  2 |  3  4 |  3  4

A segment must begin with a token whose score is not used (a speaker tag): it is the only one whose
predecessor in the row need not be its predecessor in the text. Logits, a fifth of a small model's
work, are computed only where a token is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stages.encoding.packing import PAD_SEGMENT, attention_mask
from stages.errors import UserError

FloatArray = NDArray[np.float64]
TARGETS_PER_CHUNK = 1024


@dataclass
class TokenSequence:
    """Token ids with their positions, segments and whether they are scored, all of one length."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segment_ids: list[int] = field(default_factory=list)
    is_scored: list[bool] = field(default_factory=list)

    def append(
        self, ids: Sequence[int], *, segment: int, first_position: int, scored: bool = True
    ) -> slice:
        """Add a run of tokens to a segment; return where in the sequence they are."""
        start = len(self.input_ids)
        self.input_ids += ids
        self.position_ids += range(first_position, first_position + len(ids))
        self.segment_ids += [segment] * len(ids)
        self.is_scored += [scored] * len(ids)
        return slice(start, len(self.input_ids))

    def __len__(self) -> int:
        """Tokens in the sequence."""
        return len(self.input_ids)


def drop_rows_without_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Cut the vocabulary of a model, in place, to the ids that its tokenizer has.

    Some models pad it to a round number (Qwen 2.5: 151,936 rows for 151,665 tokens). No text holds
    the other ids, so what the softmax gives them, trained or not, would be missing from the real
    ones. The tokenizer's own stay, dialogue tokens that were added included: they only widen the
    softmax, so they can make a text dearer, never cheaper.
    """
    num_ids = max(tokenizer.get_vocab().values()) + 1
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    if num_ids < len(weight):
        model.resize_token_embeddings(num_ids)


@torch.inference_mode()
def token_nll(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], *, batch_size: int
) -> list[FloatArray]:
    """Nats of every scored token given what it sees; NaN for the others.

    A sequence's first token counts 0 if it is scored: nothing predicts it.

    Sequences are scored in order of length, so that little is padding; neither that nor the batch
    size changes what a token sees.

    Raises:
        UserError: a sequence needs more positions than the model has.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    scores: list[FloatArray] = [np.zeros(0)] * len(sequences)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = [sequences[index] for index in indices]
        longest = max(max(sequence.position_ids) + 1 for sequence in batch)
        if limit is not None and longest > limit:
            raise UserError(
                f"a validation dialogue takes {longest} tokens and the model has {limit} "
                "positions; lower eval.max_bytes or eval.max_turns."
            )
        width = len(batch[-1])
        nll = _batch_nll(
            model,
            _padded([sequence.input_ids for sequence in batch], width, 0, model.device),
            _padded([sequence.position_ids for sequence in batch], width, 0, model.device),
            _padded([sequence.segment_ids for sequence in batch], width, PAD_SEGMENT, model.device),
            _padded([sequence.is_scored for sequence in batch], width, False, model.device),
        )
        for row, index in enumerate(indices):
            scores[index] = nll[row, : len(sequences[index])]
    return scores


def _batch_nll(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor,
    segment_ids: Tensor,
    is_scored: Tensor,
) -> FloatArray:
    """Nats per token ``[B, T]``; the log-softmax is in float32 whatever the model's type."""
    is_target = is_scored[:, 1:]
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask(segment_ids),
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=torch.nn.functional.pad(is_target, (0, 1)),  # what predicts a target
    ).logits
    targets = input_ids[:, 1:][is_target]
    losses = torch.zeros(targets.shape, dtype=torch.float64)
    for start in range(0, len(targets), TARGETS_PER_CHUNK):  # the vocabulary is what takes memory
        chunk = slice(start, start + TARGETS_PER_CHUNK)
        losses[chunk] = torch.nn.functional.cross_entropy(
            logits[chunk].float(), targets[chunk], reduction="none"
        ).cpu()
    nll = torch.where(is_scored, 0.0, torch.nan).to("cpu", torch.float64)
    nll[:, 1:][is_target.cpu()] = losses
    return nll.numpy()


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int, device: torch.device) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device)
