"""What votes say: who is preferred, how far judges agree, and whether automatic measures do.

An outcome is ``a``, ``b``, ``tie`` or ``both_bad``. Intervals come from resampling dialogues whole,
for pairs of one are alike, and, where there are several, judges as well (Owen 2007, "The pigeonhole
bootstrap"), so that they cover other dialogues and other judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tools.judge.votes import Vote
from tuning.report.quality import f1, rouge_l, words_of
from tuning.results.bootstrap import Estimate, draw_counts, summarise_draws

NUM_RESAMPLES = 2000
SEED = 0
"""Fixed, so that the same votes always give the same figures."""

Outcome = Literal["a", "b", "tie", "both_bad"]


@dataclass(frozen=True)
class Judgement:
    """What one judge says of one pair, of all the times that the judge was asked about it."""

    judge: str
    is_model: bool
    pair: str
    dialogue: int
    outcome: Outcome
    """``tie`` where the judge said one thing in one order and another in the other."""
    is_steady: bool
    """Whether the judge said the same each time."""
    texts: tuple[str, str]
    """Of A and B."""
    reference: str


@dataclass(frozen=True)
class Comparison:
    """All judgements on two sides."""

    a: str
    b: str
    judgements: Sequence[Judgement]
    num_pairs: int
    """Pairs that there are to judge."""
    num_identical: int
    """Places where both say the same."""
    num_half: int
    """Pairs that a model was asked about in one order only; no judgements."""

    @property
    def people(self) -> list[Judgement]:
        """What people said."""
        return [one for one in self.judgements if not one.is_model]

    @property
    def models(self) -> dict[str, list[Judgement]]:
        """What each model said."""
        return by_judge(one for one in self.judgements if one.is_model)


def comparisons(votes: Iterable[Vote]) -> list[Comparison]:
    """Gather the votes on each two sides, however they were named first and second."""
    by_sides: dict[frozenset[str], list[Vote]] = {}
    for vote in votes:
        by_sides.setdefault(frozenset((vote.a, vote.b)), []).append(vote)
    return [_comparison(group) for group in by_sides.values()]


def _comparison(votes: Sequence[Vote]) -> Comparison:
    a, b = votes[0].a, votes[0].b
    asked: dict[tuple[str, bool, str], list[Vote]] = {}
    for vote in votes:
        asked.setdefault((vote.judge, vote.is_model, vote.pair), []).append(vote)
    whole = [
        group
        for (_, is_model, _), group in asked.items()
        if not is_model or len({_is_left(a, vote) for vote in group}) == 2
    ]
    return Comparison(
        a,
        b,
        [_judgement(a, group) for group in whole],
        num_pairs=max(vote.num_pairs for vote in votes),
        num_identical=max(vote.num_identical for vote in votes),
        num_half=len(asked) - len(whole),
    )


def _judgement(a: str, votes: Sequence[Vote]) -> Judgement:
    first = votes[0]
    outcomes = {_outcome(a, vote) for vote in votes}
    texts = (first.left, first.right) if _is_left(a, first) else (first.right, first.left)
    return Judgement(
        first.judge,
        first.is_model,
        first.pair,
        first.dialogue,
        outcomes.pop() if len(outcomes) == 1 else "tie",
        is_steady=not outcomes,
        texts=texts,
        reference=first.reference,
    )


def _is_left(label: str, vote: Vote) -> bool:
    return vote.a_is_left == (vote.a == label)


def _outcome(a: str, vote: Vote) -> Outcome:
    if vote.vote in ("tie", "both_bad"):
        return vote.vote
    return "a" if (vote.vote == "left") == _is_left(a, vote) else "b"


def by_judge(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Gather what each judge said."""
    found: dict[str, list[Judgement]] = {}
    for one in judgements:
        found.setdefault(one.judge, []).append(one)
    return found


def num_dialogues(judgements: Iterable[Judgement]) -> int:
    """Count the dialogues that pairs are from."""
    return len({one.dialogue for one in judgements})


def win_rate(judgements: Sequence[Judgement]) -> Estimate:
    """Return the share that B wins of at least one judgement; one without a winner is half."""
    return _share(judgements, [{"a": 0.0, "b": 1.0}.get(one.outcome, 0.5) for one in judgements])


MEASURES: dict[str, Callable[[str, str], float]] = {
    "ROUGE-L with people's own": lambda text, own: rouge_l(words_of(text), words_of(own)),
    "F1 with people's own": lambda text, own: f1(words_of(text), words_of(own)),
    "number of words": lambda text, own: float(len(words_of(text))),
}
"""What tells two responses apart without a judge, from a text and people's own in its place."""


@dataclass(frozen=True)
class Sameness:
    """How often a measure is higher on the side that was preferred."""

    share: Estimate
    num_judgements: int
    """Those with a winner whose texts the measure tells apart."""
    num_dialogues: int


def sameness(
    judgements: Iterable[Judgement], measure: Callable[[str, str], float]
) -> Sameness | None:
    """Tell how often a measure is higher on the preferred side; None where it says nothing."""
    kept, values = [], []
    for one in judgements:
        of_a, of_b = (measure(text, one.reference) for text in one.texts)
        if one.outcome in ("a", "b") and of_a != of_b:
            kept.append(one)
            values.append(float((of_b > of_a) == (one.outcome == "b")))
    return Sameness(_share(kept, values), len(kept), num_dialogues(kept)) if kept else None


def _share(judgements: Sequence[Judgement], values: Sequence[float]) -> Estimate:
    """The mean of ``values[N]``, one per judgement, with dialogues and judges resampled."""
    dialogues = np.unique([one.dialogue for one in judgements], return_inverse=True)[1]
    judges = np.unique([one.judge for one in judgements], return_inverse=True)[1]
    sums = np.zeros((2, dialogues.max() + 1, judges.max() + 1))  # values, and how many
    for dialogue, judge, value in zip(dialogues, judges, values, strict=True):
        sums[:, dialogue, judge] += value, 1
    generator = np.random.default_rng(SEED)
    of_dialogues, of_judges = (
        draw_counts(generator, size, num_resamples=NUM_RESAMPLES) for size in sums.shape[1:]
    )
    above, below = np.einsum("rd,rj,sdj->sr", of_dialogues, of_judges, sums)
    draws = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return summarise_draws(float(np.mean(values)), draws)


@dataclass(frozen=True)
class Agreement:
    """How far two or more judges say the same of the same pairs."""

    share: float
    """Of two judges' outcomes on one pair: how often they are the same."""
    alpha: Estimate | None
    """Krippendorff's; None where all outcomes are the same, so that nothing can be told."""
    num_units: int
    """Pairs that two or more have judged; of a model with people, people's votes on its pairs."""
    num_dialogues: int


def agreement_between(judgements: Iterable[Judgement]) -> Agreement | None:
    """Return how far judges agree with each other; None where no pair has two."""
    units: dict[tuple[int, str], list[str]] = {}
    for one in judgements:
        units.setdefault((one.dialogue, one.pair), []).append(_category(one))
    return _agreement([(dialogue, said) for (dialogue, _), said in units.items()])


def agreement_with(
    judgements: Iterable[Judgement], people: Iterable[Judgement]
) -> Agreement | None:
    """Return how far a judge agrees with each person; None where they share no pair."""
    own = {one.pair: one for one in judgements}
    return _agreement(
        (one.dialogue, [_category(own[one.pair]), _category(one)])
        for one in people
        if one.pair in own
    )


def _category(judgement: Judgement) -> str:
    """The winner, if there is one: to a win rate, a tie and both bad are the same."""
    return judgement.outcome if judgement.outcome in ("a", "b") else "neither"


def _agreement(units: Iterable[tuple[int, Sequence[str]]]) -> Agreement | None:
    """Agreement over units, each the outcomes on one pair of a dialogue."""
    kept = [(dialogue, said) for dialogue, said in units if len(said) > 1]
    if not kept:
        return None
    dialogues = np.unique([dialogue for dialogue, _ in kept], return_inverse=True)[1]
    size = int(dialogues.max()) + 1
    tables = np.zeros((size, 3, 3))
    for dialogue, (_, said) in zip(dialogues, kept, strict=True):
        tables[dialogue] += coincidences(said)
    counts = draw_counts(np.random.default_rng(SEED), size, num_resamples=NUM_RESAMPLES)
    value, *draws = alpha(np.concatenate([np.ones((1, size)), counts]) @ tables.reshape(size, 9))
    defined = np.array([draw for draw in draws if not np.isnan(draw)])
    same = sum(tables.trace(axis1=1, axis2=2))
    return Agreement(
        share=float(same / tables.sum()),
        alpha=None if np.isnan(value) else summarise_draws(float(value), defined),
        num_units=len(kept),
        num_dialogues=size,
    )


def coincidences(said: Sequence[str]) -> NDArray[np.float64]:
    """Krippendorff's coincidences of one unit: every ordered pair of values over m − 1."""
    counts = np.array([said.count(one) for one in ("a", "b", "neither")], dtype=np.float64)
    return (np.outer(counts, counts) - np.diag(counts)) / (len(said) - 1)


def alpha(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Krippendorff's alpha for nominal data from ``[R, C·C]`` summed coincidences.

    1 is full agreement, 0 that of chance; NaN where only one value was ever said. Krippendorff
    2011, "Computing Krippendorff's Alpha-Reliability", C.
    """
    size = int(tables.shape[1] ** 0.5)
    square = tables.reshape(-1, size, size)
    each = square.sum(axis=2)
    total = each.sum(axis=1)
    same, by_chance = square.trace(axis1=1, axis2=2), (each * (each - 1)).sum(axis=1)
    below = total * (total - 1) - by_chance
    above = (total - 1) * same - by_chance
    found: NDArray[np.float64] = np.full(len(below), np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found
