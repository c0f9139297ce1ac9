"""Replies of a model: many are written side by side, each as if it were alone.

Rows share the forward passes of one batch and nothing else. A row's random draws follow from a hash
of its name, so neither the order of the rows nor the batch size changes what is drawn. Rows that
continue the same dialogue share its pass, at whatever turn they leave it; the place of a row that
has finished is taken by the next request.

A model that does not keep rows apart (``writes_side_by_side``) writes one reply after the other.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tuning.dealing import collect, deal, inference, processes_of
from tuning.language_model.in_parts import read_part
from tuning.language_model.loading import num_visible, reads_alone
from tuning.progress import Bar
from tuning.tokens.template import Ending, Template
from tuning.writing.row_cache import OneRow, RowCache, writes_side_by_side

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

    context: tuple[int, ...]
    """Token ids; equal ones are read once."""
    length: int
    """The number of these ids that the model sees, from the first; at least 1."""
    tags: tuple[tuple[int, ...], ...]
    """Ids that begin each turn: the tag of the one who is to speak."""
    sampling: Sampling
    name: str
    """Name from whose hash the random draws follow."""


@dataclass(frozen=True)
class Reply:
    """One turn as it was written, without its speaker's tag and its end."""

    ids: tuple[int, ...]
    """Token ids; the last may be joined with the turn's end."""
    nats: tuple[float, ...]
    """Nats of each token under the model, whatever the sampling."""
    ending: Ending | Literal["cut"]
    """The end of the turn; ``cut`` if that is ``max_new_tokens``."""


def only_reply(turns: Sequence[Reply]) -> Reply:
    """Return the one turn that was asked for; cut before it began, where there was no room."""
    return turns[0] if turns else Reply((), (), "cut")


@dataclass
class _Row:
    """A request on its way: ``pending`` tokens are given to the model, the others are its own."""

    number: int
    """The request's number."""
    request: Request
    pending: list[int]
    position: int
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    is_done: bool = False


@inference
def write_replies(
    model: PreTrainedModel,
    template: Template,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[list[Reply]]:
    """Let the model write.

    Args:
        model: Any causal language model, as it is loaded.
        template: The model's way to write turns, with the tokens that end one.
        requests: ``[N]`` The turns to write.
        max_new_tokens: Most tokens of a turn.
        batch_size: Rows per forward pass.

    Returns:
        ``[N]`` The replies of each request, one per speaker that it names; fewer where the model
        has no positions left.
    """
    in_order = _in_order(model, requests)
    mine = deal(model, in_order, by=lambda number: requests[number].context)
    everything = collect(model, _write(model, template, requests, mine, max_new_tokens, batch_size))
    return [everything.get(number, []) for number in range(len(requests))]


def _write(
    model: PreTrainedModel,
    template: Template,
    requests: Sequence[Request],
    numbers: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> dict[int, list[Reply]]:
    """Write the replies to the requests of some numbers, in this order."""
    num_positions = num_visible(model.config)
    replies: dict[int, list[Reply]] = {}
    waiting = deque(numbers)
    num_rows = min(batch_size, len(waiting)) if writes_side_by_side(model) else 1
    cache = RowCache(num_rows) if writes_side_by_side(model) else OneRow()
    contexts = _Contexts(model, [requests[number] for number in waiting])
    rows: list[_Row] = []
    bar = _bar(model, len(waiting))
    while waiting or rows:
        while waiting and len(rows) < num_rows:
            number = waiting.popleft()
            request = requests[number]
            cache.put(len(rows), contexts.read(request), request.length)
            first = list(request.tags[0])
            rows.append(_Row(number, request, pending=first, position=request.length))
        ids = [row.pending.pop(0) for row in rows]
        logits = cache.read(model, ids, [row.position for row in rows])
        writing = [index for index, row in enumerate(rows) if not row.pending]
        if writing:
            chosen, nats = choose_tokens(logits[writing].float(), [rows[i] for i in writing])
            for index, token, nat in zip(writing, chosen, nats, strict=True):
                _take(rows[index], token, nat, template, max_new_tokens)
        for index in reversed(range(len(rows))):
            row = rows[index]
            row.position += 1
            if row.is_done or row.position == num_positions:
                replies[row.number] = row.replies
                bar.update()
                last = rows.pop()
                if last is not row:
                    cache.move(len(rows), to=index, length=last.position)
                    rows[index] = last
    bar.close()
    return replies


def _bar(model: PreTrainedModel, num_replies: int) -> Bar:
    is_shown = num_replies > 1 and processes_of(model).is_main
    return Bar("score", "responses written", num_replies, shown=is_shown)


def _in_order(model: PreTrainedModel, requests: Sequence[Request]) -> list[int]:
    """Order the requests: most turns first, as they take longest; those of one reading together.

    Neighbours have contexts of nearly one length, and so see few slots that are not their own.
    """
    num_positions = num_visible(model.config)
    possible = (i for i, request in enumerate(requests) if request.length < num_positions)
    keys = {i: (-len(requests[i].tags), len(requests[i].context)) for i in possible}
    return sorted(
        keys,
        key=lambda i: (keys[i], requests[i].context, reads_alone(model) and requests[i].length),
    )


class _Contexts:
    """Reads each context once, as far as any request sees it; where states follow, as each does."""

    def __init__(self, model: PreTrainedModel, requests: Sequence[Request]) -> None:
        """Take all requests, in the order in which they begin."""
        self._model = model
        self._lengths: dict[tuple[int, ...], int] = {}
        if not reads_alone(model):
            for request in requests:
                seen = self._lengths.get(request.context, 0)
                self._lengths[request.context] = max(seen, request.length)
        self._ids: tuple[int, ...] = ()

    def read(self, request: Request) -> DynamicCache:
        """Return what layers keep of a context; that of the last one is kept, if it is all."""
        ids = request.context[: self._lengths.get(request.context, request.length)]
        if ids != self._ids or not writes_side_by_side(self._model):
            self._ids = ids
            # Without it, layers that look back less far keep what they see no more.
            config = self._model.config if reads_alone(self._model) else None
            self._cache = DynamicCache(config=config)
            read_part(self._model, ids, self._cache, 0)
        return self._cache


def choose_tokens(logits: Tensor, rows: Sequence[_Row]) -> tuple[list[int], list[float]]:
    """Each row's next token and its nats, from float32 ``logits[N, V]``."""
    chosen = logits.argmax(dim=-1)
    drawing = [index for index, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if drawing:
        samplings = [rows[index].request.sampling for index in drawing]
        chosen[drawing] = draw(logits[drawing], samplings, [_uniform(rows[i]) for i in drawing])
    nats = logits.logsumexp(dim=-1) - logits.gather(1, chosen[:, None])[:, 0]
    return chosen.tolist(), nats.tolist()


def draw(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Draw a token of each row's nucleus, all rows at once.

    Args:
        logits: ``[N, V]``.
        samplings: ``[N]``.
        uniforms: ``[N]`` in [0, 1): where in the nucleus, likeliest first, the token is.

    Returns:
        ``[N]`` Token ids.
    """

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=logits.device)[:, None]

    temperature = column([each.temperature for each in samplings], logits.dtype)
    top_p = column([each.top_p for each in samplings], torch.float64)
    probabilities = (logits / temperature).softmax(dim=-1).double()
    num_ids = logits.shape[1]
    for size in (min(FIRST_TRY, num_ids), num_ids):
        likeliest, tokens = probabilities.topk(size)
        cumulative = likeliest.cumsum(dim=-1)
        if bool((cumulative[:, -1:] >= top_p).all()):
            break
    last = (cumulative < top_p).sum(dim=-1, keepdim=True).clamp(max=size - 1)
    reached = column(uniforms, torch.float64) * cumulative.gather(1, last)
    place = torch.minimum((cumulative <= reached).sum(dim=-1, keepdim=True), last)
    return tokens.gather(1, place)[:, 0]


def _uniform(row: _Row) -> float:
    """A number in [0, 1) that belongs to this token of this request alone."""
    sampling = row.request.sampling
    place = (sampling.seed, row.request.name, len(row.replies), len(row.ids))
    digest = hashlib.sha256("\x1f".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _take(row: _Row, token: int, nat: float, template: Template, max_new_tokens: int) -> None:
    """Add a written token to its row: it goes on with the turn, ends it, or begins the next."""
    ending: Ending | Literal["cut"] | None = template.ending_of(token)
    row.pending = []
    if ending is None or template.is_joined(token):
        row.ids.append(token)
        row.nats.append(nat)
        row.pending.append(token)
    if ending is None:
        if len(row.ids) < max_new_tokens:
            return
        ending = "cut"
    end = template.end if ending == "cut" or not row.pending else []
    row.replies.append(Reply(tuple(row.ids), tuple(row.nats), ending))
    row.ids, row.nats = [], []
    if len(row.replies) < len(row.request.tags):
        row.pending += [*end, *row.request.tags[len(row.replies)]]
    else:
        row.is_done = True
