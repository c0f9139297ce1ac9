"""What all encoded pieces come to: the ledger of tokens, and what is said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuning.encoding.encoder import Counts, EncodedPiece
from tuning.packing import pack
from tuning.reading.accounts import percentiles
from tuning.run.errors import UserError
from tuning.run.visible import visible

IntArray = npt.NDArray[np.int64]

BUCKETS = ("trained", "context", "truncated", "validation", "test")
"""The ledger's buckets of tokens; each reason to leave dialogues out adds one."""
COUNTS = (
    "num_split_dialogues",
    "num_unrolled_dialogues",
    "num_targets_turn_before_cut",
    "num_targets_turn_before_lost",
    "num_composed_turns",
    "num_turns_of_other_weight",
)
"""What the encoder counts of training dialogues."""
MAX_TURN_BEFORE_CUT = 0.02
"""Share of the targets that may lack a part of the turn before them without a word."""
MAX_NAMED = 20
"""Dialogues that one message names; it counts the others."""

NOT_ENCODABLE = "not_encodable.jsonl"
"""The file beside the windows that has a JSON string for each dialogue that is left out."""


@dataclass(kw_only=True)
class Totals(Counts):
    """What all pieces come to.

    Tokens are of all parts, and all else of training; the first ``MAX_NAMED`` not encodable stay.
    """

    num_not_encodable: Counter[str] = field(default_factory=Counter)
    """Dialogues by part."""
    lengths: list[IntArray] = field(default_factory=list)
    """Tokens of the training windows."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Tokens and targets of each training rendering."""

    def add(self, piece: EncodedPiece) -> None:
        """Add a piece of any part."""
        self.num_tokens += piece.num_tokens
        self.num_not_encodable[piece.part] += len(piece.not_encodable)
        self.not_encodable += piece.not_encodable[: MAX_NAMED - len(self.not_encodable)]
        if piece.part == "train":
            self.counts += piece.counts
            self.num_trained_of.update(piece.num_trained_of)
            self.num_not_rendered += piece.num_not_rendered
            self.num_turns += piece.num_turns
            self.speakers |= piece.speakers
            self.lengths.append(piece.lengths)
            self.sizes += piece.rendering_sizes

    def turns(self, *, trained: bool) -> dict[str, int]:
        """Count the turns that are trained, or those that are not, by role, in order."""
        return {
            role or "people": count
            for (role, is_trained), count in sorted(self.num_turns.items())
            if is_trained == trained
        }

    def max_length_enough(self) -> int:
        """Return the least tokens of a window with which nearly all targets are in one window."""
        sizes = np.array(self.sizes, np.int64).reshape(-1, 2)
        longest_first = sizes[np.argsort(-sizes[:, 0], kind="stable")]
        beyond = np.cumsum(longest_first[:, 1]) - longest_first[:, 1]  # targets of longer ones
        enough = beyond <= MAX_TURN_BEFORE_CUT * int(sizes[:, 1].sum())
        return int(longest_first[enough, 0].min(initial=longest_first[:1, 0].max(initial=0)))

    def ledger(self, max_length: int) -> dict[str, Any]:
        """Return every token in one bucket, and the shape of the training windows."""
        lengths = np.concatenate(self.lengths)
        num_in_windows = int(lengths.sum())
        num_rows = len(pack(lengths.tolist(), max_length))
        num_tokens = self.num_tokens
        return {
            "num_tokens": dict.fromkeys(BUCKETS, 0) | num_tokens | {"input": num_tokens.total()},
            "num_trained_tokens_of_sources": {
                name: count for name, count in self.num_trained_of.items() if name
            },
            "num_windows": len(lengths),
            # Context that later windows repeat, and what several renderings begin with
            "num_repeated_tokens": num_in_windows - num_tokens["trained"] - num_tokens["context"],
            "packing_efficiency": num_in_windows / (num_rows * max_length),
            "num_tokens_per_window": percentiles(lengths),
            "num_turns": {
                "trained": self.turns(trained=True),
                "context": self.turns(trained=False),
            },
            **{name: self.counts[name] for name in COUNTS},
            # A window of so many tokens would read all targets but 2 % with all that is before them
            "max_length_enough": self.max_length_enough(),
            "num_not_encodable": {
                "train": self.num_not_encodable["train"],
                "validation": self.num_not_encodable["val"],
            },
            "num_not_rendered": dict(self.num_not_rendered),
        }


def report_what_is_trained(template: str, found: Totals) -> None:
    """Print the template's name, and whose turns are trained and whose are context."""
    trained, context = (
        ", ".join(f"{role} ({count:,})" for role, count in found.turns(trained=one).items())
        for one in (True, False)
    )
    others = f"; context are those of: {context}" if context else ""
    weighted = found.counts["num_turns_of_other_weight"]
    others += f"; {weighted:,} trained turns have a weight other than 1" if weighted else ""
    print(f"encode: template {template}; trained are turns of: {trained}{others}")


def cut_message(ledger: Mapping[str, Any], max_length: int) -> str:
    """Say if many targets do not see all of the turn before them, and what would mend it.

    Args:
        ledger: What ``Totals.ledger`` returned for windows of that length.
        max_length: Tokens that a window may have.

    Returns:
        Nothing where they are few.
    """
    cut, lost = (ledger[f"num_targets_turn_before_{how}"] for how in ("cut", "lost"))
    num_targets = ledger["num_tokens"]["trained"]
    if cut + lost <= MAX_TURN_BEFORE_CUT * num_targets:
        return ""
    return (
        f"{(cut + lost) / num_targets:.0%} of the target tokens do not see the whole turn before "
        f"them in windows of {max_length:,} tokens ({lost / num_targets:.0%} see nothing of it); "
        f"encoding.max_length: {ledger['max_length_enough']} would read all but 2 % of them in one "
        "window"
    )


def report_not_encodable(base: Path, found: Totals, *, skips: bool) -> None:
    """Stop with a list of the dialogues that no model can be given, or say what is left out."""
    lost, num_lost = found.not_encodable, found.num_not_encodable
    is_any_left = any(found.num_tokens[name] for name in ("trained", "context", "truncated"))
    total = sum(num_lost.values())
    counts = f"{total:,} dialogues ({num_lost['train']:,} training, {num_lost['val']:,} validation)"
    cause = f"tokenizer or template of {base} do not take {counts} as they are"
    if skips and is_any_left:
        print(
            f"encode: left out, since data.on_invalid is skip: {cause}, such as "
            f"{visible(lost[0])} (all: {NOT_ENCODABLE} beside the windows)"
        )
        return
    rest = [f"… and {total - len(lost):,} more"] if total > len(lost) else []
    shown = "\n".join(f"  {line}" for line in [*lost, *rest])
    others = "none is left to train on." if skips else "they would be trained and scored wrongly."
    skip = "" if skips else ", or leave them out and count them with data.on_invalid: skip"
    raise UserError(
        f"{cause}; {others}\n{shown}\nMend them, or take another base model with model.name or "
        f"another encoding.template{skip}."
    )
