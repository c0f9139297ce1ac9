"""What was scored, and what was not, in a sentence that table, report and card share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.pages.words import counted


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
    return found
