"""The shares of calls of tools that are right: ``calls`` in ``metrics/generation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tuning.report.headlines import Headline, HeadlineRow, as_is, headline_rows, with_intervals
from tuning.results.dialogue_table import FloatArray, Table


def _share(
    name: str,
    title: str,
    *,
    of: str = "num_call_places",
    higher_is_better: bool = True,
    is_judged: bool = False,
) -> Headline:
    return Headline(
        name=name,
        title=title,
        numerator=(f"{{m}}_{name}",),
        denominator=(of,),
        transform=as_is,
        higher_is_better=higher_is_better,
        one_tokenizer_only=False,
        decimals=3,
        is_judged=is_judged,
    )


CALL_SHARES: Final = (
    _share("well_formed_calls", "calls: well-formed"),
    _share("right_call_names", "calls: right names"),
    _share("right_calls", "calls: right arguments, too", is_judged=True),
    _share("cut_calls", "calls: cut", higher_is_better=False),
    _share(
        "needless_calls",
        "calls: needless",
        of="num_word_places",
        higher_is_better=False,
        is_judged=True,
    ),
)
"""Of the places where the data's assistant calls tools; the last, of those where it speaks. Right
calls and needless ones are judged: the others are parts of what makes a call right or wrong."""


def call_metrics(table: Table, counts: FloatArray) -> dict[str, Any]:
    """Return every share of both models and its change, and what it was counted on.

    Nothing where the data calls no tool, or no template's calls can be read back.

    Args:
        table: The sums per dialogue of both models.
        counts: ``[R, D]`` How often each resample holds each dialogue.
    """
    if "num_call_places" not in table:
        return {}
    size = {
        "num_dialogues": int((table["num_call_places"] > 0).sum()),
        "num_call_places": int(table["num_call_places"].sum()),
        "num_word_places": int(sum(table.get("num_word_places", ()))),
    }
    return {"set": size} | with_intervals(table, counts, CALL_SHARES)


def call_rows(generation: Mapping[str, Any]) -> list[HeadlineRow]:
    """Return the shares in ``metrics/generation.json`` as people read them; none without calls."""
    return headline_rows(generation["calls"], CALL_SHARES) if "calls" in generation else []
