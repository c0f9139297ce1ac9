"""What the votes of people and models say: ``python -m tools.judgements``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.judge.figures import (
    MEASURES,
    Agreement,
    Comparison,
    Judgement,
    Outcome,
    agreement_between,
    agreement_with,
    by_judge,
    comparisons,
    num_dialogues,
    sameness,
    win_rate,
)
from tools.judge.pairs import PEOPLE
from tools.judge.votes import VOTES, read_votes
from tuning.pages.words import counted
from tuning.results.bootstrap import FEWEST_DIALOGUES, Estimate
from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.run.visible import as_name

WIDTH = 80
"""Columns of a terminal."""
OUTCOMES: dict[Outcome, str] = {"a": "A", "b": "B", "tie": "tie", "both_bad": "bad"}
ABOUT = (
    "votes: one a judge and pair; bad: both are; B wins: ties and both bad are half a win; "
    "n: dialogues; intervals: 95 %, dialogues resampled whole, and judges too where there are "
    "several; alpha: Krippendorff's, of A, B or neither: 1 is full agreement, 0 that of chance; "
    f"no verdict of under {FEWEST_DIALOGUES} dialogues."
)
FEW = f"too few dialogues (under {FEWEST_DIALOGUES})"


def as_text(comparison: Comparison) -> str:
    """Return who is preferred, and how far to trust that, for a terminal."""
    said = f"{counted(comparison.num_pairs, 'pair')} to judge"
    if comparison.num_identical:
        said += f"; in {counted(comparison.num_identical, 'place')} more both say the same"
    lines = [f"A  {as_name(comparison.a)}", f"B  {as_name(comparison.b)}", said, ""]
    if comparison.people:
        lines += _of_people(comparison)
    else:
        lines += ["no person has judged them"]
    for name, judgements in comparison.models.items():
        lines += ["", *_of_model(as_name(name), judgements, comparison.people)]
    if comparison.num_half:
        half = counted(comparison.num_half, "pair")
        lines += ["", f"left out: {half} that a model was asked about in one order only"]
    return "\n".join(line for long in lines for line in textwrap.wrap(long, WIDTH) or [""])


def _of_people(comparison: Comparison) -> Iterator[str]:
    people = by_judge(comparison.people)
    yield _row("", "votes", *OUTCOMES.values(), "B wins", "interval", "n")
    if len(people) > 1:
        yield from _rates("people", comparison.people)
    for name, judgements in people.items():
        yield from _rates(as_name(name), judgements)
    who = "people" if len(people) > 1 else as_name(next(iter(people)))
    alone = "" if len(people) > 1 else "; one judge alone, others may say otherwise"
    yield f"{who}: {_verdict(comparison.people)}{alone}"
    among = agreement_between(comparison.people)
    if among is not None:
        yield f"agreement between judges: {_agreement(among, 'pair')}"
    elif len(people) > 1:
        yield "agreement between judges: not known, no pair has two"
    yield ""
    yield "higher on the side that people prefer, where that differs (chance 0.5):"
    with_people = PEOPLE in (comparison.a, comparison.b)  # who agree with themselves
    for title, measure in MEASURES.items():
        if with_people and "people" in title:
            continue
        found = sameness(comparison.people, measure)
        if found is None:
            yield f"  {title:<26} never differs"
        else:
            votes = counted(found.num_judgements, "vote")
            figure = f"{found.share.value:.2f} {_interval(found.share)} of {votes}, "
            verdict = "no verdict"
            if found.num_dialogues >= FEWEST_DIALOGUES:
                verdict = _side_of_half(found.share, "agrees", "disagrees", "not shown")
            yield f"  {title:<26} {figure}n {found.num_dialogues}: {verdict}"


def _of_model(
    name: str, judgements: Sequence[Judgement], people: Sequence[Judgement]
) -> Iterator[str]:
    """First how far the model is to be trusted, then what it says."""
    yield f"model {name}"
    steady = sum(one.is_steady for one in judgements) / len(judgements)
    yield f"the same in both orders: {steady:.2f} of {counted(len(judgements), 'pair')}; else a tie"
    found = agreement_with(judgements, people)
    if found is None:
        yield "agreement with people: not known, no person has judged these pairs"
    else:
        yield f"agreement with people: {_agreement(found, 'vote')}"
    yield _row("", "votes", *OUTCOMES.values(), "B wins", "interval", "n")
    yield from _rates(name, judgements)
    if found is None:
        yield f"{name}: no verdict without people to compare with"
    elif found.num_dialogues < FEWEST_DIALOGUES:
        yield f"{name}: no verdict, its agreement with people is of {FEW}"
    else:
        yield f"{name}: {_verdict(judgements)}"


def _rates(name: str, judgements: Sequence[Judgement]) -> Iterator[str]:
    rate = win_rate(judgements)
    outcomes = [one.outcome for one in judgements]
    numbers = [f"{outcomes.count(outcome):,}" for outcome in OUTCOMES]
    cells = [f"{len(outcomes):,}", *numbers, f"{rate.value:.3f}", _interval(rate)]
    if len(name) > NAME_WIDTH:
        yield name
        name = ""
    yield _row(name, *cells, f"{num_dialogues(judgements):,}")


NAME_WIDTH = 20


def _row(name: str, *cells: str) -> str:
    widths = (6, 6, 6, 6, 6, 7, 14, 5)
    shown = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name:<{NAME_WIDTH}}{shown}"


def _verdict(judgements: Sequence[Judgement]) -> str:
    if num_dialogues(judgements) < FEWEST_DIALOGUES:
        return f"no verdict, {FEW}"
    sides = "B is preferred", "A is preferred", "no preference shown"
    return _side_of_half(win_rate(judgements), *sides)


def _side_of_half(share: Estimate, above: str, below: str, neither: str) -> str:
    return above if share.low > 0.5 else below if share.high < 0.5 else neither


def _agreement(found: Agreement, of: str) -> str:
    """Return ``0.71 the same, alpha 0.55 [0.41, 0.68], 57 pairs, n 31``."""
    number = "is undefined, all say one thing"
    if found.alpha is not None:
        number = f"{found.alpha.value:.2f} {_interval(found.alpha)}"
    number_of = counted(found.num_units, of)
    return f"{found.share:.2f} the same, alpha {number}, {number_of}, n {found.num_dialogues}"


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:.2f}, {estimate.high:.2f}]"


def main() -> None:
    """Print each comparison of a file of votes."""
    parser = argparse.ArgumentParser(prog="python -m tools.judgements", description=__doc__)
    parser.add_argument("votes", type=Path, nargs="?", default=VOTES, help="(%(default)s)")
    path = parser.parse_args().votes
    found = comparisons(read_votes(path))
    if not found:
        raise UserError(f"{path} holds no votes yet: make judge NAME=ann adds some.")
    print("\n\n".join(map(as_text, found)), end="\n\n")
    print(textwrap.fill(ABOUT, WIDTH))


if __name__ == "__main__":
    run_stage("judgements", main)
