"""The test set, which nothing reads but the release of a model: its figures chose nothing.

Both models read it as the validation dialogues were read, as far as perplexity goes. What comes of
it has the form of the evaluation's files, so that cards and comparisons take either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuning.dialogue import Dialogue, read_dialogues
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.processes.group import Processes
from tuning.report.headlines import with_intervals
from tuning.report.scored import set_figures
from tuning.results.bootstrap import draw_counts
from tuning.results.dialogue_table import Column
from tuning.run.files import sha256_of
from tuning.run.params import Params
from tuning.scoring.measures import load_model
from tuning.scoring.nats import score
from tuning.scoring.perplexity import response_findings, score_responses
from tuning.tokens.template import Template
from tuning.tokens.templates import is_encodable


@dataclass(frozen=True, kw_only=True)
class SideScores:
    """The figures of both models on the test set."""

    metrics: dict[str, Any]
    """In the form of ``metrics/eval.json``; only the section ``set`` where there is no dialogue."""
    dialogues: list[Dialogue]
    """What was scored of it."""
    columns: dict[str, Column]
    """Sums per dialogue."""


def score_test_side(
    path: Path,
    models: Mapping[str, tuple[Path, Template]],
    params: Params,
    processes: Processes = Processes(),  # noqa: B008 - frozen
) -> SideScores:
    """Score the responses of the test set after their history, under ``base`` and ``tuned``.

    Args:
        path: The dialogues; no file where ``data.test_fraction`` is 0.
        models: Folder and template of both, by name.
        params: How much is scored, and how sure that is.
        processes: This process among those that score.
    """
    dialogues, num_left_out = _cut(path, models, params)
    columns: dict[str, Column] = {}
    metrics: dict[str, Any] = {}
    if dialogues:
        for name, (folder, template) in models.items():
            model = load_model(
                folder,
                template,
                params.score.dtype,
                processes=processes,
                in_parts=params.runtime.shard_model,
            )
            scoring = score_responses(template, dialogues)
            scores = score(model, scoring, batch_size=params.score.batch_size)
            found = response_findings(name, scores, None, len(dialogues))
            columns |= found.columns
            metrics[name] = found.figures | {
                "template": template.name,
                "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
            }
        counts = draw_counts(
            np.random.default_rng(params.seed),
            len(dialogues),
            num_resamples=params.eval.bootstrap_resamples,
        )
        for name, figures in with_intervals(columns, counts).items():
            metrics[name] = metrics.get(name, {}) | figures
    about = set_figures(dialogues, num_left_out, columns) | {
        "primary": params.eval.primary,
        "dtype": params.score.dtype,
    }
    return SideScores(metrics=metrics | {"set": about}, dialogues=dialogues, columns=columns)


def _cut(
    path: Path, models: Mapping[str, tuple[Path, Template]], params: Params
) -> tuple[list[Dialogue], int]:
    """The dialogues that both models read as they are, cut; and how many are left out."""
    loss_on: str | Sequence[str] = params.encoding.loss_on
    there = list(read_dialogues(path)) if path.exists() else []
    read = [
        dialogue
        for dialogue in there
        if all(is_encodable(template, dialogue, loss_on=loss_on) for _, template in models.values())
    ]
    dialogues, num_left_out = cut_evaluation_set(
        read,
        max_dialogues=params.score.max_dialogues,
        max_turns=params.score.max_turns,
        max_bytes=params.score.max_bytes,
        loss_on=loss_on,
    )
    return dialogues, num_left_out + len(there) - len(read)
