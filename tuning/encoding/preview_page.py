"""``data/preview.html``: shown dialogues and ledgers, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuning.encoding.preview import ShownDialogue, ShownToken, ShownWindow
from tuning.pages.environment import render
from tuning.run.visible import visible_characters

TEMPLATE = Path(__file__).with_name("preview.html.jinja")
MAX_SHOWN_TOKENS = 120
"""Boxes per window: its first ones, and where the first trained one is far behind, also those near
it; the rest is counted."""
MAX_SHOWN_WINDOWS = 2

_LEGEND = (
    (ShownToken(" trained", "trained"), "the loss is on this token"),
    (ShownToken(" context", "context"), "read, not trained: as turns that a later window repeats"),
    (ShownToken(" held out", "held_out"), "validation or test: never in training"),
    (ShownToken(" dropped", "dropped"), "left out, for the reason given"),
    (ShownToken("☺", "trained", 3), "one character that is several tokens"),
    (ShownToken(" \n", "trained"), "a space and a line end"),
)

_MEANINGS = {"context": "read, not trained", "truncated": "in no window"}


@dataclass(frozen=True)
class ShownBucket:
    """One bucket of a ledger: a segment of its bar, and a row of its table."""

    title: str
    style: str
    """Its class: a colour and a pattern."""
    count: int
    share: str
    meaning: str | None


def as_html(dialogues: Sequence[ShownDialogue], ledgers: Mapping[str, Mapping[str, int]]) -> str:
    """Return the page.

    Args:
        dialogues: Shown in this order; long ones are cut, and the page says by how much.
        ledgers: What is counted (``tokens``) -> bucket -> how many.
    """
    tokens = (token for shown in dialogues for window in shown.windows for token in window.tokens)
    tag = next((token for token in tokens if token.kind == "speaker"), None)
    begins = [] if tag is None else [(tag, "begins a turn: read, never trained")]
    return render(
        TEMPLATE,
        ledgers={unit: shown_buckets(ledger) for unit, ledger in ledgers.items()},
        legend=[*begins, *_LEGEND],
        dialogues=dialogues,
        max_windows=MAX_SHOWN_WINDOWS,
        shown_parts=shown_parts,
        visible=visible_characters,
    )


def shown_buckets(ledger: Mapping[str, int]) -> list[ShownBucket]:
    """Return the buckets of a ledger as the page shows them."""
    total = sum(ledger.values())
    return [
        ShownBucket(
            _bucket_title(name),
            _bucket_class(name),
            count,
            _share(count, total),
            _MEANINGS.get(name),
        )
        for name, count in ledger.items()
    ]


def shown_parts(window: ShownWindow) -> list[tuple[ShownWindow, int]]:
    """Return what is shown of a window, each part with the number of tokens left out behind it."""
    tokens, half = window.tokens, MAX_SHOWN_TOKENS // 2
    trained = (number for number, token in enumerate(tokens) if token.kind == "trained")
    first = next(trained, 0)
    ranges = [range(MAX_SHOWN_TOKENS)]
    if first >= MAX_SHOWN_TOKENS:  # behind a long system text, say
        start = first - half // 2
        ranges = [range(half), range(start, start + half)]
    ends = [*(each.start for each in ranges[1:]), len(tokens)]
    return [
        (
            ShownWindow(tokens[each.start : each.stop]),
            sum(token.num_tokens for token in tokens[each.stop : end]),
        )
        for each, end in zip(ranges, ends, strict=True)
    ]


def _bucket_class(name: str) -> str:
    """Return the class of a bucket; dialogues in training look like trained tokens."""
    known = {"trained": "train"}.get(name, name)
    return f"b-{'dropped' if known.startswith('dropped_') else known}"


def _bucket_title(name: str) -> str:
    title = {"train": "training"}.get(name, name)
    return title.replace("dropped_", "dropped: ").replace("_", " ")


def _share(count: int, total: int) -> str:
    """Return ``12.3 %``; a part is never shown as nothing."""
    share = count / total if total else 0.0
    return "< 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %")
