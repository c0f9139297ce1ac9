"""The headlines of each source of a mixture, on its own validation dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuning.report.headlines import HeadlineRow, headline_rows, with_intervals
from tuning.results.dialogue_table import FloatArray, Table

NAMES = ("bits_per_byte", "perplexity")
"""The headlines that every dialogue has its share in."""


def of_sources(sources: Sequence[str], table: Table, counts: FloatArray) -> dict[str, Any]:
    """Return by source what ``metrics/eval.json`` has of all; nothing where there is one source.

    Args:
        sources: ``[D]`` The source of each dialogue.
        table: The sums per dialogue of both models.
        counts: ``[R, D]`` How often each resample holds each dialogue.
    """
    found: dict[str, Any] = {}
    for name in sorted(set(sources)):
        is_here = np.array([source == name for source in sources])
        part = {column: values[is_here] for column, values in table.items()}
        found[name] = {"set": {"num_dialogues": int(is_here.sum())}} | {
            section: {key: numbers[key] for key in numbers if key.startswith(NAMES)}
            for section, numbers in with_intervals(part, counts[:, is_here]).items()
        }
    return found if len(found) > 1 else {}


def source_rows(metrics: Mapping[str, Any]) -> dict[str, list[HeadlineRow]]:
    """Return the headlines of each source in ``metrics/eval.json`` as people read them."""
    return {
        name: headline_rows(
            {
                **one,
                **{model: metrics[model] | one[model] for model in ("base", "tuned")},
                "set": metrics["set"] | one["set"],
            }
        )
        for name, one in metrics.get("sources", {}).items()
    }
