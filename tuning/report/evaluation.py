"""All that follows from the scores of both models, before it is written or shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuning.dialogue import read_dialogues
from tuning.evaluation_set.blocks import blocks_sha256
from tuning.evaluation_set.places import people_in_places
from tuning.evaluation_set.plan import Plan
from tuning.report.call_shares import call_metrics
from tuning.report.headlines import with_intervals
from tuning.report.ngram_baselines import baseline_scores
from tuning.report.parts import of_also, of_sources
from tuning.report.quality import Measures, words_of
from tuning.report.scored import set_figures
from tuning.report.writing_table import Relevance, as_metrics, measure_writing, shares_by_length
from tuning.results.bootstrap import Estimate, draw_counts
from tuning.results.dialogue_table import Column
from tuning.results.measured import Measured
from tuning.results.response_scores import ROUNDING, bits_per_byte
from tuning.run.params import ScoreParams


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Numbers of both models side by side."""

    metrics: dict[str, Any]
    """The content of ``metrics/eval.json``."""
    generation: dict[str, Any]
    """The content of ``metrics/generation.json``."""
    columns: dict[str, Column]
    """Sums per dialogue."""
    curves: dict[str, dict[str, dict[int, Estimate]]]
    """Axis -> model -> point of the axis -> value with its interval."""
    writing: dict[str, dict[str, Measures]]
    """Writer -> ``greedy``, ``sampled`` or ``said`` -> the quality of the writing."""
    by_length: list[tuple[float, ...]]
    """Rows: words, and the share of responses of each column with at most so many."""
    length_columns: tuple[str, ...]


def evaluate(
    plan: Plan,
    measured: Mapping[str, Measured],
    training: Path,
    relevance: Relevance | None,
    *,
    settings: ScoreParams,
    primary: str,
    num_resamples: int,
    seed: int,
) -> Evaluation:
    """Compare ``base`` and ``tuned``.

    Args:
        plan: The text, blocks and places that both were measured on.
        measured: Both models' scores, by name.
        training: The training dialogues, for n-gram models and what was copied from them.
        relevance: The function that measures relevance; None leaves it out.
        settings: How much was measured, and in which type.
        primary: The headline that was declared beforehand.
        num_resamples: Resamples of the dialogues behind each interval.
        seed: Seed of the resamples.
    """
    base, tuned = measured["base"], measured["tuned"]
    columns = base.columns | tuned.columns
    counts = draw_counts(
        np.random.default_rng(seed), len(plan.dialogues), num_resamples=num_resamples
    )
    headlines = with_intervals(columns, counts)
    baselines = baseline_scores(read_dialogues(training), plan.dialogues)
    people = people_in_places(plan.dialogues, plan.places)
    writing = measure_writing(
        {name: one.written for name, one in measured.items()},
        {name: one.chats for name, one in measured.items()},
        people,
        _utterances(training),
        relevance,
        num_resamples=num_resamples,
        seed=seed,
    )
    lengths = {
        name: [len(words_of(response.text)) for response in one.written.sampled]
        for name, one in measured.items()
    } | {"people": [len(words_of(one.text)) for one in people]}
    calls = call_metrics(columns, counts)
    after = base.figures.get("bits_per_byte_with_example")
    with_example = {} if after is None else {"base_with_example": {"bits_per_byte": after}}
    sources = of_sources([dialogue.source for dialogue in plan.dialogues], columns, counts)
    return Evaluation(
        metrics={
            "base": base.figures | headlines["base"],
            "tuned": tuned.figures | headlines["tuned"],
            "change": headlines["change"],
            "baselines": {
                name: {"bits_per_byte": bits_per_byte(scores.content_nll, scores.num_bytes)}
                for name, scores in baselines.items()
            }
            | with_example,
            **({"sources": sources} if sources else {}),
            "also": of_also(
                {name: one | tuned.also[name] for name, one in base.also.items()},
                num_resamples=num_resamples,
                seed=seed,
            ),
            "set": _set(plan, columns)
            | {"profile": settings.profile, "primary": primary, "dtype": settings.dtype}
            | _rounding(measured),
        },
        generation=as_metrics(writing, len(plan.places)) | ({"calls": calls} if calls else {}),
        columns=columns,
        curves={
            axis: {name: one.curves[axis].estimates(counts) for name, one in measured.items()}
            for axis in base.curves
        },
        writing=writing,
        by_length=shares_by_length(lengths),
        length_columns=tuple(lengths),
    )


def _set(plan: Plan, columns: Mapping[str, Column]) -> dict[str, Any]:
    """What was measured on, and what was not."""
    num_left_out = plan.num_left_out + len(plan.not_encodable)
    return set_figures(plan.dialogues, num_left_out, columns) | {
        "blocks_sha256": blocks_sha256(plan.blocks),
        "num_blocks": len(plan.blocks),
    }


def _rounding(measured: Mapping[str, Measured]) -> dict[str, float | str]:
    """What the type of each model's weights changed, where it is not float32."""
    return {
        f"rounding_{name}": one.figures[ROUNDING]
        for name, one in measured.items()
        if ROUNDING in one.figures
    }


def _utterances(path: Path) -> Iterator[str]:
    """All texts of a file of dialogues."""
    for dialogue in read_dialogues(path):
        for turn in dialogue.turns:
            yield turn.text
