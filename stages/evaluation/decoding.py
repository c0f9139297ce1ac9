"""What a model writes: many replies side by side, each as if it were alone.

Rows share the forward passes of one batch and nothing else. A row's random draws follow from a hash
of its name, so neither the order of the rows nor the batch size changes what is drawn. Rows that
continue the same dialogue share its pass, at whatever turn they leave it; a row that has finished
leaves the batch.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stages.encoding.speakers import Ending, Template

FIRST_TRY = 256
"""Likeliest tokens among which the nucleus is looked for first: sorting all of them is slow."""


@dataclass(frozen=True)
class Sampling:
    """Draw from the nucleus (Holtzman et al. 2020); a temperature of 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """The turns that a model is to write behind the first tokens of a context."""

    context: int
    """Which of the contexts."""
    length: int
    """Its tokens that the model sees, from the first; at least 1."""
    speakers: tuple[int, ...]
    """Index of who speaks, turn by turn."""
    sampling: Sampling
    name: str
    """Names the draws."""


@dataclass(frozen=True)
class Reply:
    """One turn as it was written, without its speaker's tag and its end."""

    ids: tuple[int, ...]
    nats: tuple[float, ...]
    """Of each token under the model, whatever the sampling."""
    ending: Ending | Literal["cut"]
    """How it ended: ``cut`` by ``max_new_tokens``."""


@dataclass
class _Row:
    """A request on its way: ``pending`` tokens are given to the model, the others are its own."""

    request: Request
    pending: list[int]
    position: int
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    is_done: bool = False


@torch.inference_mode()
def write_replies(
    model: PreTrainedModel,
    template: Template,
    contexts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[list[Reply]]:
    """Let the model write.

    Args:
        model: Any causal language model whose attention is plain.
        template: How it reads turns, and which tokens end one.
        contexts: ``[C]`` Token ids.
        requests: ``[N]`` What to write behind them.
        max_new_tokens: Longest turn, in tokens.
        batch_size: Rows per forward pass.

    Returns:
        ``[N]`` The replies of each request, one per speaker that it names; fewer where the model
        has no positions left.
    """
    num_positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    replies: list[list[Reply]] = [[]] * len(requests)
    # Neighbours have contexts of one length, and one context's requests stay together.
    order = sorted(
        (i for i, request in enumerate(requests) if request.length < num_positions),
        key=lambda i: (len(contexts[requests[i].context]), requests[i].context),
    )
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [
            _Row(
                requests[i],
                pending=list(template.tag(requests[i].speakers[0])),
                position=requests[i].length,
            )
            for i in chosen
        ]
        _write(model, template, contexts, rows, max_new_tokens, num_positions)
        for i, row in zip(chosen, rows, strict=True):
            replies[i] = row.replies
    return replies


def _write(
    model: PreTrainedModel,
    template: Template,
    contexts: Sequence[Sequence[int]],
    rows: list[_Row],
    max_new_tokens: int,
    num_positions: int,
) -> None:
    """Bring the rows of one batch to their end."""
    cache, mask = _read_contexts(model, contexts, [row.request for row in rows])
    while rows:
        tokens = [row.pending.pop(0) for row in rows]
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        logits = model(
            input_ids=torch.tensor(tokens, device=model.device)[:, None],
            attention_mask=mask,
            position_ids=torch.tensor([[row.position] for row in rows], device=model.device),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        for row in rows:
            row.position += 1
        writing = [index for index, row in enumerate(rows) if not row.pending]
        if writing:
            chosen, nats = choose_tokens(logits[writing].float(), [rows[i] for i in writing])
            for index, token, nat in zip(writing, chosen, nats, strict=True):
                _take(rows[index], token, nat, template, max_new_tokens)
        for row in rows:
            row.is_done |= row.position == num_positions
        kept = [index for index, row in enumerate(rows) if not row.is_done]
        if 0 < len(kept) < len(rows):
            indices = torch.tensor(kept, device=model.device)
            cache.batch_select_indices(indices)
            mask = mask[indices]
        rows = [rows[index] for index in kept]


def _read_contexts(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], requests: Sequence[Request]
) -> tuple[DynamicCache, Tensor]:
    """Keys and values of every request's context, and which of them it sees, ``[N, T]``."""
    numbers = sorted({request.context for request in requests})
    texts = [
        contexts[number][: max(r.length for r in requests if r.context == number)]
        for number in numbers
    ]
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], device=model.device)
    cache = DynamicCache(config=model.config)
    model(  # what follows a row's own tokens is hidden from them: attention is causal
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    place = {number: row for row, number in enumerate(numbers)}
    cache.batch_select_indices(
        torch.tensor([place[request.context] for request in requests], device=model.device)
    )
    lengths = torch.tensor([request.length for request in requests], device=model.device)
    return cache, (torch.arange(width, device=model.device) < lengths[:, None]).long()


def choose_tokens(logits: Tensor, rows: Sequence[_Row]) -> tuple[list[int], list[float]]:
    """Each row's next token and its nats, from float32 ``logits[N, V]``."""
    chosen = logits.argmax(dim=-1)
    drawing = [index for index, row in enumerate(rows) if row.request.sampling.temperature > 0]
    for index in drawing:
        chosen[index] = draw(logits[index], rows[index].request.sampling, _uniform(rows[index]))
    nats = logits.logsumexp(dim=-1) - logits.gather(1, chosen[:, None])[:, 0]
    return chosen.tolist(), nats.tolist()


def draw(logits: Tensor, sampling: Sampling, uniform: float) -> int:
    """The token at ``uniform`` in [0, 1) of the nucleus, likeliest first, from ``logits[V]``."""
    probabilities = (logits / sampling.temperature).softmax(dim=-1).double()
    for size in (min(FIRST_TRY, len(logits)), len(logits)):
        likeliest, tokens = probabilities.topk(size)
        cumulative = likeliest.cumsum(dim=-1)
        if cumulative[-1] >= sampling.top_p:
            break
    num_kept = min(int((cumulative < sampling.top_p).sum()) + 1, size)
    num_passed = int((cumulative[:num_kept] <= uniform * cumulative[num_kept - 1]).sum())
    return int(tokens[min(num_passed, num_kept - 1)])


def _uniform(row: _Row) -> float:
    """A number in [0, 1) that belongs to this token of this request alone."""
    sampling = row.request.sampling
    place = (sampling.seed, row.request.name, len(row.replies), len(row.ids))
    digest = hashlib.sha256("\x1f".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _take(row: _Row, token: int, nat: float, template: Template, max_new_tokens: int) -> None:
    """Add a written token to its row: it goes on with the turn, ends it, or begins the next."""
    ending: Ending | Literal["cut"] | None = template.ending_of(token)
    if ending is None:
        row.ids.append(token)
        row.nats.append(nat)
        row.pending = [token]
        if len(row.ids) < max_new_tokens:
            return
        ending = "cut"
    else:
        row.pending = []
    row.replies.append(Reply(tuple(row.ids), tuple(row.nats), ending))
    row.ids, row.nats = [], []
    if len(row.replies) < len(row.request.speakers):
        speaker = row.request.speakers[len(row.replies)]
        row.pending += [*template.end, *template.tag(speaker)]
    else:
        row.is_done = True
