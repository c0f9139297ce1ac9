"""Which dialogues the preview shows, and how many there are in every bucket."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from stages.corpus.buckets import bucket
from stages.corpus.dialogue import Dialogue, from_line, read_dialogues
from stages.encoding.preview import ShownDialogue

NUM_SEARCHED = 300
"""Training dialogues, from the first, among which one of several windows is sought."""


def examples(
    prepared: Path, show: Callable[[Dialogue, str], ShownDialogue]
) -> tuple[list[ShownDialogue], dict[str, int]]:
    """A few dialogues, the same ones whenever the input is the same, and the ledger of dialogues.

    Two that are trained, one of several windows, one for validation, and one for each of two
    reasons to drop a dialogue; the first of each kind in the fixed order of prep's files.

    Args:
        prepared: Prep's folder.
        show: Makes a dialogue and its fate (a side, or a reason) into tokens.
    """
    searched = islice(read_dialogues(prepared / "train.jsonl"), NUM_SEARCHED)
    trained = (shown for d in searched if (shown := show(d, "train")).windows)
    chosen = list(islice(trained, 2))
    if all(len(shown.windows) == 1 for shown in chosen):
        chosen += islice((shown for shown in trained if len(shown.windows) > 1), 1)
    chosen += (show(d, "val") for d in islice(read_dialogues(prepared / "val.jsonl"), 1))

    num_dropped: Counter[str] = Counter()
    for reason, line in _dropped_lines(prepared / "dropped.jsonl"):
        if reason not in num_dropped and len(num_dropped) < 2:
            chosen.append(show(from_line(line), reason))
        num_dropped[reason] += 1
    ledger = {
        bucket(side): _num_lines(prepared / f"{side}.jsonl") for side in ("train", "val", "test")
    }
    return chosen, ledger | {bucket(reason): num_dropped[reason] for reason in sorted(num_dropped)}


def _dropped_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)["reason"], line


def _num_lines(path: Path) -> int:
    """Dialogues in a file; none where prep wrote no such side."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
