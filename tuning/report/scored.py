"""What was scored, and what was not: as figures, and in a sentence for table, report and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuning.dialogue import Dialogue
from tuning.evaluation_set.text import text_sha256
from tuning.pages.words import counted
from tuning.report.headlines import METRIC_VERSION
from tuning.results.dialogue_table import Column
from tuning.results.response_scores import NUM_ROUNDED


def set_figures(
    dialogues: Sequence[Dialogue], num_left_out: int, columns: Mapping[str, Column]
) -> dict[str, Any]:
    """What every evaluation says in its section ``set``, whatever else is measured.

    Args:
        dialogues: ``[D]`` Those that were scored; there may be none.
        num_left_out: Those that were not.
        columns: The sums per dialogue.
    """
    num_responses, num_ends, num_bytes = (
        int(columns[name].sum()) if dialogues else 0
        for name in ("num_responses", "num_ends", "num_bytes")
    )
    return {
        "num_dialogues": len(dialogues),
        "num_dialogues_left_out": num_left_out,
        "num_responses": num_responses,
        "num_responses_cut": num_responses - num_ends,
        "num_bytes": num_bytes,
        "text_sha256": text_sha256(dialogues),
        "metric_version": METRIC_VERSION,
    }


def what_was_scored(about: Mapping[str, Any], side: str = "validation") -> str:
    """Return the sentence for the section ``set`` of an evaluation, without its full stop."""
    found = (
        f"{counted(about['num_responses'], 'response')} ({about['num_bytes']:,} bytes) of "
        f"{counted(about['num_dialogues'], f'{side} dialogue')}"
    )
    if cut := about.get("num_responses_cut"):
        found += f"; {counted(cut, 'response')} cut at score.max_bytes"
    if left_out := about.get("num_dialogues_left_out"):
        found += (
            f"; {counted(left_out, 'dialogue')} left out, without a response within "
            "score.max_turns or with text that the tokenizer changes"
        )
    if about.get("dtype", "float32") != "float32":
        found += f"; scored in {about['dtype']}"
    if "rounding_base" in about:
        base, tuned = (f"{about[f'rounding_{name}']:+.4f}" for name in ("base", "tuned"))
        found += (
            f", which changes bits per byte by {base} (base model) and {tuned} (fine-tuned), "
            f"measured on {min(NUM_ROUNDED, about['num_dialogues'])} of the dialogues"
        )
    return found
