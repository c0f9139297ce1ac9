"""Nats per token under a model, for sequences read together: a common beginning is read once.

Sequences are merged into trees, so ten responses to one context cost one pass over the context, and
what one measure has asked for costs another nothing. A tree lies in a row depth first::

    sequences   c0 c1 x0 x1    row            c0 c1 x0 x1 y0 y1
                c0 c1 y0 y1    position_ids    0  1  2  3  2  3
                               ends            6  6  4  4  6  6

A token sees itself and what its sequences have before it: token i sees j if j <= i < ends[j]. It is
predicted where the token before stands. Logits, a fifth of a small model's work, are computed only
there.

Of a model that ``reads_alone`` each row holds one sequence, and others only if they begin it.

A measure is a generator: it yields its sequences, gets the nats of their tokens, and returns what
follows from them. Measures taken ``together`` are read in the same passes.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tuning.dealing import collect, deal, inference, processes_of
from tuning.language_model.device import TARGETS_PER_CHUNK
from tuning.language_model.loading import num_visible, reads_alone
from tuning.language_model.masks import attention_masks
from tuning.packing import pack
from tuning.progress import Bar
from tuning.results.dialogue_table import FloatArray
from tuning.run.errors import UserError

MIN_SHARED = 8
"""The shortest common beginning that is read once, in tokens: the few of a tag begin too many
sequences for one row."""

TREE_TOKENS = 512
"""The most tokens of a tree, unless one sequence is longer."""

ROW_TOKENS = 256
"""The most tokens of a row of several trees: attention's cost grows with their square."""


@dataclass
class TokenSequence:
    """Token ids, and whether each is scored."""

    ids: list[int] = field(default_factory=list)
    is_scored: list[bool] = field(default_factory=list)
    or_last: int | None = None
    """Another token in the last one's place: what counts there is that it is either of them. The
    last one is scored, then, and not the first."""

    def append(self, ids: Sequence[int], *, scored: bool = True) -> slice:
        """Add a run of tokens; return where in the sequence they are."""
        start = len(self.ids)
        self.ids += ids
        self.is_scored += [scored] * len(ids)
        return slice(start, len(self.ids))

    @classmethod
    def after(cls, context: Sequence[int], ids: Sequence[int]) -> Self:
        """Tokens that are scored, behind a context that is not."""
        sequence = cls()
        sequence.append(context, scored=False)
        sequence.append(ids)
        return sequence


Result = TypeVar("Result")
Other = TypeVar("Other")
Scoring = Generator[list[TokenSequence], list[FloatArray], Result]


def score(model: PreTrainedModel, scoring: Scoring[Result], *, batch_size: int) -> Result:
    """Read what a measure asks for; return what it finds."""
    return _finish(scoring, token_nll(model, next(scoring), batch_size=batch_size))


def together(scorings: Sequence[Scoring[Result]]) -> Scoring[list[Result]]:
    """Ask for what several measures ask for, at once; return what each of them finds."""
    asked = [next(scoring) for scoring in scorings]
    nll = iter((yield list(chain.from_iterable(asked))))
    return [
        _finish(scoring, list(islice(nll, len(part))))
        for scoring, part in zip(scorings, asked, strict=True)
    ]


def both(one: Scoring[Result], other: Scoring[Other]) -> Scoring[tuple[Result, Other]]:
    """Do as ``together``, for two measures that find different things."""
    first, second = next(one), next(other)
    nll = yield [*first, *second]
    return _finish(one, nll[: len(first)]), _finish(other, nll[len(first) :])


def _finish(scoring: Scoring[Result], nll: list[FloatArray]) -> Result:
    try:
        scoring.send(nll)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("a measure asks once")


def sums(nll: Sequence[FloatArray]) -> FloatArray:
    """Sum the nats of each sequence's scored tokens, ``[N]``."""
    return np.array([np.nansum(one) for one in nll], dtype=np.float64)


@inference
def token_nll(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], *, batch_size: int
) -> list[FloatArray]:
    """Nats of every scored token given the tokens before it; NaN for the others.

    A sequence's first token counts 0 if it is scored: nothing predicts it.

    Neither the batch size nor the other sequences change what a token sees.

    Args:
        model: Any causal language model, as it is loaded.
        sequences: ``[N]`` In any order.
        batch_size: Rows of ``TREE_TOKENS`` per forward pass, or as many shorter ones as fit there.

    Raises:
        UserError: a sequence has more tokens than the model has positions.
    """
    longest = max((len(sequence.ids) for sequence in sequences), default=0)
    limit = num_visible(model.config)
    if longest > limit:
        raise UserError(
            f"a dialogue (of the validation or test set, or of one of score.also) takes {longest} "
            f"tokens and the model has only {limit} positions; lower score.max_bytes or "
            "score.max_turns, or take a dialogue whose prompt alone is longer out of it."
        )
    if reads_alone(model):
        rows = sorted(merge(sequences, longest, may_branch=False), key=lambda row: len(row.ids))
    else:
        rows = _rows(merge(sequences, max(longest, TREE_TOKENS)))
    batches = list(_batches(rows, batch_size * TREE_TOKENS))
    mine = [batches[index] for index in deal(model, range(len(batches)), by=int)]
    num_tokens = sum(len(row.ids) for batch in mine for row in batch)
    bar = Bar("score", "tokens read", num_tokens, shown=processes_of(model).is_main)
    scores: dict[int, FloatArray] = {}
    for batch in mine:
        batch_nll, others = _batch_nll(model, batch)
        bar.update(sum(len(row.ids) for row in batch))
        for row, nll in zip(batch, batch_nll, strict=True):
            for number, places in row.places.items():
                is_scored = np.array(sequences[number].is_scored)
                scores[number] = np.where(is_scored, nll[places], np.nan)
                if number in others:
                    scores[number][-1] = -np.logaddexp(-scores[number][-1], -others[number])
    bar.close()
    scores = collect(model, scores)
    return [scores.get(number, np.zeros(0)) for number in range(len(sequences))]


@dataclass
class Tree:
    """Tokens of sequences that begin alike, depth first, or several such trees in a row."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index in the row of the token before each; -1 for a first token."""
    position_ids: list[int] = field(default_factory=list)
    is_scored: list[bool] = field(default_factory=list)
    places: dict[int, list[int]] = field(default_factory=dict)
    """Indices in the row of each sequence's tokens, by the sequence's number."""
    or_last: dict[int, int] = field(default_factory=dict)
    """The other token in a last one's place, by the number of a sequence that has one."""

    def add(self, number: int, sequence: TokenSequence, path: list[int]) -> None:
        """Add a sequence whose first tokens stand at ``path`` already."""
        for token in sequence.ids[len(path) :]:
            self.parents.append(path[-1] if path else -1)
            self.position_ids.append(len(path))
            path.append(len(self.ids))
            self.ids.append(token)
            self.is_scored.append(False)
        for place, scored in zip(path, sequence.is_scored, strict=True):
            self.is_scored[place] |= scored
        self.places[number] = path
        if sequence.or_last is not None:
            self.or_last[number] = sequence.or_last


def merge(
    sequences: Sequence[TokenSequence], capacity: int, *, may_branch: bool = True
) -> list[Tree]:
    """Trees of at most ``capacity`` tokens that hold every sequence once.

    Without branches, a tree's sequences are beginnings of its longest.
    """
    trees: list[Tree] = []
    before: list[int] = []
    path: list[int] = []
    in_order = sorted((one.ids, number) for number, one in enumerate(sequences) if one.ids)
    for ids, number in in_order:
        shared = len(os.path.commonprefix([before, ids]))
        if (
            shared < min(MIN_SHARED, len(ids))
            or len(trees[-1].ids) + len(ids) - shared > capacity
            or not (may_branch or shared == len(before))
        ):
            trees.append(Tree())
            path = []
        trees[-1].add(number, sequences[number], path[:shared])
        before, path = ids, trees[-1].places[number]
    return trees


def _rows(trees: Sequence[Tree]) -> list[Tree]:
    """Small trees side by side, in rows that are sorted by length."""
    small = [tree for tree in trees if len(tree.ids) <= ROW_TOKENS]
    packed = pack([len(tree.ids) for tree in small], ROW_TOKENS)
    rows = [_in_a_row([small[index] for index in row]) for row in packed]
    rows += [tree for tree in trees if len(tree.ids) > ROW_TOKENS]
    return sorted(rows, key=lambda row: len(row.ids))


def _in_a_row(trees: Sequence[Tree]) -> Tree:
    row = Tree()
    for tree in trees:
        start = len(row.ids)
        row.ids += tree.ids
        row.parents += [start + parent if parent >= 0 else -1 for parent in tree.parents]
        row.position_ids += tree.position_ids
        row.is_scored += tree.is_scored
        for number, places in tree.places.items():
            row.places[number] = [start + place for place in places]
        row.or_last |= tree.or_last
    return row


def _batches(rows: Sequence[Tree], num_tokens: int) -> Iterator[list[Tree]]:
    """Rows that, padded to the longest, have at most so many tokens; or a single one."""
    batch: list[Tree] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row.ids) > num_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch_nll(model: PreTrainedModel, rows: Sequence[Tree]) -> tuple[FloatArray, dict[int, float]]:
    """Nats per token ``[B, T]``, 0 where none is scored; and of ``or_last``, by sequence.

    In float32 whatever the model's type.
    """
    width = max(len(row.ids) for row in rows)
    ids = _padded([row.ids for row in rows], width, 0)
    parents = _padded([row.parents for row in rows], width, -1)
    position_ids = _padded([row.position_ids for row in rows], width, 0)
    is_scored = _padded([row.is_scored for row in rows], width, False)

    row, place = (is_scored & (parents >= 0)).nonzero(as_tuple=True)
    target = ids[row, place]
    num_own = len(target)
    others = {
        number: (index, tree.places[number][-1], token)
        for index, tree in enumerate(rows)
        for number, token in tree.or_last.items()
    }
    if others:
        more = torch.tensor(list(others.values())).T
        row, place, target = map(torch.cat, zip((row, place, target), more, strict=True))
    parent = parents[row, place]
    predicts = torch.zeros(ids.shape, dtype=torch.bool)
    predicts[row, parent] = True
    inputs: dict[str, Any] = {}
    if not reads_alone(model):
        positions = position_ids.to(model.device)
        visible = who_sees_whom(parents).to(model.device)
        inputs["attention_mask"] = attention_masks(model, visible, positions, positions)
        inputs["position_ids"] = positions
    logits = model(
        input_ids=ids.to(model.device),
        **inputs,
        use_cache=False,
        logits_to_keep=predicts.to(model.device),
    ).logits
    number = predicts.flatten().cumsum(0).reshape(predicts.shape) - 1  # of a place's logits
    source, target = (one.to(model.device) for one in (number[row, parent], target))
    losses = torch.empty(len(target), dtype=torch.float64)
    for start in range(0, len(target), TARGETS_PER_CHUNK):
        chunk = slice(start, start + TARGETS_PER_CHUNK)
        losses[chunk] = torch.nn.functional.cross_entropy(
            logits[source[chunk]].float(), target[chunk], reduction="none"
        ).cpu()
    nll = torch.zeros(ids.shape, dtype=torch.float64)
    nll[row[:num_own], place[:num_own]] = losses[:num_own]
    return nll.numpy(), dict(zip(others, losses[num_own:].tolist(), strict=True))


def who_sees_whom(parents: Tensor) -> Tensor:
    """Return the mask of rows: ``[B, 1, T, T]``, true where token i sees token j.

    Args:
        parents: ``[B, T]`` Index of the token before, -1 for first tokens and padding.
    """
    ends = [_ends(row) for row in parents.tolist()]
    place = torch.arange(parents.shape[1])
    visible = (place <= place[:, None]) & (place[:, None] < torch.tensor(ends)[:, None])
    return visible[:, None]


def _ends(parents: Sequence[int]) -> list[int]:
    """Return, for each token, the index behind the last token that has it before itself."""
    ends = list(range(1, len(parents) + 1))
    for place in reversed(range(len(parents))):
        if parents[place] >= 0:
            ends[parents[place]] = max(ends[parents[place]], ends[place])
    return ends


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
