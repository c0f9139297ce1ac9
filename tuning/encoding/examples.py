"""The choice of the dialogues that the preview shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tuning.dialogue import Dialogue, from_line, read_dialogues
from tuning.encoding.preview import ShownDialogue

NUM_SEARCHED = 300
"""Training dialogues, from the first, among which one of several windows is sought."""


def examples(prepared: Path, show: Callable[[Dialogue, str], ShownDialogue]) -> list[ShownDialogue]:
    """A few dialogues, the same ones whenever the input is the same.

    Two that are trained, one of several windows, one for validation, and one for each of two
    reasons to drop a dialogue; the first of each kind in the fixed order of prep's files.

    Args:
        prepared: Prep's folder.
        show: Makes a dialogue and its fate (a side, or a reason) into tokens.
    """
    searched = islice(read_dialogues(prepared / "train.jsonl"), NUM_SEARCHED)
    shown_ones = (show(dialogue, "train") for dialogue in searched)
    trained = (shown for shown in shown_ones if shown.bucket == "train" and shown.windows)
    chosen = list(islice(trained, 2))
    if all(len(shown.windows) == 1 for shown in chosen):
        chosen += islice((shown for shown in trained if len(shown.windows) > 1), 1)
    chosen += (show(d, "val") for d in islice(read_dialogues(prepared / "val.jsonl"), 1))
    chosen += (show(*found) for found in islice(_each_reason(prepared / "dropped.jsonl"), 2))
    return chosen


def _each_reason(path: Path) -> Iterator[tuple[Dialogue, str]]:
    """The first dialogue that was dropped for each reason, and the reason."""
    met: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            if any(spelling in line for spelling in met):
                continue  # unparsed, as nearly all are
            reason = json.loads(line)["reason"]
            met.append(f'"reason": "{reason}"'.encode())
            yield from_line(line), reason
