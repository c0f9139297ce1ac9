"""Response coherence: can the model tell which response belongs to which context?

All scores come from one matrix of nats per block (``tuning.evaluation_set.blocks``): response r
after context c, for all N x N, and each response after no context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuning.dialogue import Dialogue
from tuning.evaluation_set.blocks import Block
from tuning.results.dialogue_table import FloatArray, IntArray, count_per_dialogue, sum_per_dialogue
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, sums
from tuning.scoring.perplexity import content_of
from tuning.tokens.template import Template


@dataclass(frozen=True)
class CoherenceItems:
    """Per pair, block by block (I = blocks x N pairs); hits and ranks are expected over ties."""

    dialogue: IntArray
    """``[I]`` Index of the pair's dialogue in the evaluation set."""
    num_bytes: IntArray
    """``[I]`` Bytes of the response in UTF-8."""
    own_nll: FloatArray
    """``[I]`` Nats of the response after its own context."""
    foreign_nll: FloatArray
    """``[I]`` The same, mean over the block's other contexts."""
    context_hits: FloatArray
    """``[I]`` 1 if the response is likeliest after its own context."""
    hits_at_1_pmi: FloatArray
    """``[I]`` 1 if, after the context, its own response has the best log p(r|c) - log p(r)."""
    mrr_pmi: FloatArray
    """``[I]`` 1 / the own response's rank by that score."""
    hits_at_1_per_byte: FloatArray
    """``[I]`` As ``hits_at_1_pmi``, by log p(r|c) per byte of r."""
    mrr_per_byte: FloatArray
    """``[I]`` As ``mrr_pmi``, by log p(r|c) per byte of r."""


def measure_coherence(subject: Subject) -> Scoring[Findings]:
    """Score responses after their own and others' contexts; without blocks, find nothing."""
    if not subject.plan.blocks:
        yield []
        return Findings()
    items = yield from score_coherence(subject.template, subject.plan.blocks)
    return coherence_findings(subject.name, items, len(subject.dialogues))


def coherence_findings(name: str, items: CoherenceItems, num_dialogues: int) -> Findings:
    """Sum a model's scores over the pairs, and the counts that divide them."""

    def total(values: FloatArray) -> FloatArray:
        return sum_per_dialogue(items.dialogue, values, num_dialogues)

    return Findings(
        columns={
            "num_context_items": np.bincount(items.dialogue, minlength=num_dialogues),
            "block_bytes": count_per_dialogue(items.dialogue, items.num_bytes, num_dialogues),
            f"{name}_own_nll": total(items.own_nll),
            f"{name}_foreign_nll": total(items.foreign_nll),
            f"{name}_context_hits": total(items.context_hits),
        },
        figures={**summarise_ranks(items)},
    )


def score_coherence(template: Template, blocks: Sequence[Block]) -> Scoring[CoherenceItems]:
    """Score all pairs of at least one block; the blocks are of one size."""
    pairs = [pair for block in blocks for pair in block.pairs]
    candidates = [block.responses for block in blocks for _ in block.pairs]
    own = [[response] for block in blocks for response in block.responses]
    nll = yield [
        *_lay_out(template, pairs, candidates, with_history=True),
        *_lay_out(template, pairs, own, with_history=False),
    ]
    nats = sums(nll)
    size = len(blocks[0].pairs)
    count = len(pairs) * size
    return rank(blocks, nats[:count].reshape(-1, size, size), nats[count:].reshape(-1, size))


def score_candidates(
    template: Template,
    dialogues: Sequence[Dialogue],
    candidates: Sequence[Sequence[str]],
    *,
    with_history: bool = True,
) -> Scoring[list[FloatArray]]:
    """Score texts that stand where a dialogue's last turn does.

    Args:
        template: The model's way to write turns.
        dialogues: The last turn says only who speaks; the turns before are the context.
        candidates: ``[D]``, for each dialogue the texts that stand there.
        with_history: False leaves the context out; the speaker's tag stays.

    Returns:
        Per dialogue, the content's nats for each of its candidates.
    """
    nll = yield _lay_out(template, dialogues, candidates, with_history=with_history)
    ends = np.cumsum([len(texts) for texts in candidates])
    return np.split(sums(nll), ends[:-1])


def _lay_out(
    template: Template,
    dialogues: Sequence[Dialogue],
    candidates: Sequence[Sequence[str]],
    *,
    with_history: bool,
) -> list[TokenSequence]:
    """A sequence per dialogue and candidate, of which the candidate's content is scored."""
    sequences: list[TokenSequence] = []
    for dialogue, texts in zip(dialogues, candidates, strict=True):
        *context, last = dialogue.turns
        # Each stands behind the context alone, so the candidates may be in a row.
        possible = (*context, *(last.saying(text) for text in texts))
        reading = template.read(replace(dialogue, turns=possible))
        history = range(len(context)) if with_history else range(0)
        sequences += [
            content_of(reading.after(history, number))
            for number in range(len(context), len(possible))
        ]
    return sequences


def rank(blocks: Sequence[Block], nll: FloatArray, alone: FloatArray) -> CoherenceItems:
    """Find every pair's hits and ranks in the matrices.

    Args:
        blocks: M blocks of N pairs.
        nll: ``[M, N, N]``; entry ``[m, c, r]`` is block m's response r after its context c.
        alone: ``[M, N]``; response r after no context.
    """
    num_bytes = np.array([[len(text.encode()) for text in block.responses] for block in blocks])
    num_others = nll.shape[1] - 1
    own = np.diagonal(nll, axis1=1, axis2=2)
    context_hits, _ = _hits_and_reciprocal_ranks(-nll.swapaxes(1, 2))
    hits_pmi, mrr_pmi = _hits_and_reciprocal_ranks(alone[:, None, :] - nll)
    hits_per_byte, mrr_per_byte = _hits_and_reciprocal_ranks(-nll / num_bytes[:, None, :])
    return CoherenceItems(
        dialogue=np.array([index for block in blocks for index in block.dialogues]),
        num_bytes=num_bytes.ravel(),
        own_nll=own.ravel(),
        foreign_nll=((nll.sum(axis=1) - own) / num_others).ravel(),
        context_hits=context_hits,
        hits_at_1_pmi=hits_pmi,
        mrr_pmi=mrr_pmi,
        hits_at_1_per_byte=hits_per_byte,
        mrr_per_byte=mrr_per_byte,
    )


def summarise_ranks(items: CoherenceItems) -> dict[str, float]:
    """Average the figures that are no headlines: the own response among all to one context.

    Chance is 1 / N for the hits and (1 + 1/2 + … + 1/N) / N for the mean reciprocal ranks. Hits
    over responses: Lowe et al. 2015 (recall at k); the correction for what is likely anyway: Li et
    al. 2016.
    """
    return {
        "hits_at_1_pmi": float(items.hits_at_1_pmi.mean()),
        "mrr_pmi": float(items.mrr_pmi.mean()),
        "hits_at_1_per_byte": float(items.hits_at_1_per_byte.mean()),
        "mrr_per_byte": float(items.mrr_per_byte.mean()),
    }


def _hits_and_reciprocal_ranks(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rank the right answers, on the diagonal of ``[M, N, N]``, in their rows: two ``[M * N]``.

    Expected values where ties are broken at random: one of m equals after g better ones has each of
    the ranks g + 1 … g + m with probability 1 / m.
    """
    right = np.diagonal(scores, axis1=1, axis2=2)[:, :, None]
    num_better = (scores > right).sum(axis=2).ravel()
    num_equal = (scores == right).sum(axis=2).ravel()
    hits = np.where(num_better == 0, 1 / num_equal, 0.0)
    reciprocal = [
        np.mean(1 / np.arange(better + 1, better + equal + 1))
        for better, equal in zip(num_better, num_equal, strict=True)
    ]
    return hits, np.array(reciprocal)
