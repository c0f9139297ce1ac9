"""The headlines of parts: each source of a mixture, and each further evaluation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuning.report.headlines import HEADLINES, HeadlineRow, headline_rows, with_intervals
from tuning.results.bootstrap import draw_counts, holm
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


def of_also(tables: Mapping[str, Table], *, num_resamples: int, seed: int) -> dict[str, Any]:
    """Return by further set what ``metrics/eval.json`` has of all.

    How sure a change is, is adjusted for how many sets there are (Holm).

    Args:
        tables: The sums of both models of each set's own texts or dialogues.
        num_resamples: Resamples behind each interval.
        seed: Seed of the resamples.
    """
    found: dict[str, Any] = {}
    for name, table in tables.items():
        num_texts = len(table["num_bytes"])
        generator = np.random.default_rng(seed)
        counts = draw_counts(generator, num_texts, num_resamples=num_resamples)
        found[name] = {"set": {"num_dialogues": num_texts, "primary": ""}} | with_intervals(
            table, counts, [one for one in HEADLINES if one.name == NAMES[0]]
        )
    key = f"{NAMES[0]}_p"
    for name, p in holm({name: one["change"][key] for name, one in found.items()}).items():
        found[name]["change"][key] = p
    return found


def rows_of_parts(metrics: Mapping[str, Any], parts: str) -> dict[str, list[HeadlineRow]]:
    """Return the headlines of ``sources`` or ``also`` in ``metrics/eval.json`` for people."""
    return {
        name: headline_rows(
            {
                **one,
                **{
                    model: {"template": metrics[model].get("template")} | one[model]
                    for model in ("base", "tuned")
                },
                "set": metrics["set"] | one["set"],
            }
        )
        for name, one in metrics.get(parts, {}).items()
    }
