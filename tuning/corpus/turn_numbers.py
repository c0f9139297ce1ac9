"""The order of messages that say which turn of their conversation they are."""

from __future__ import annotations

from itertools import pairwise
from operator import itemgetter
from typing import Any

from tuning.corpus.faults import Invalid
from tuning.corpus.message_keys import plan_of


def in_turn_order(items: list[Any], what: str) -> list[Any]:
    """Messages by their turns' numbers, where all have one.

    Raises:
        Invalid: they are out of order, and a number stands there twice.
    """
    key = plan_of(tuple(items[0])).turn if items and isinstance(items[0], dict) else None
    if key is None:
        return items
    numbers = [turn_number(item, key) for item in items]
    known = [number for number in numbers if number is not None]
    if len(known) < len(items) or all(a <= b for a, b in pairwise(known)):
        return items
    if len({*known}) < len(known):
        raise Invalid(
            "wrong_layout",
            f"{what}: {key!r} is the order of the messages, and begins anew or says one twice; "
            "wanted messages of one conversation that stand in order, or numbers that all differ",
        )
    return [item for _, item in sorted(zip(known, items, strict=True), key=itemgetter(0))]


def turn_number(item: Any, key: str) -> int | None:
    """Return where a message stands in its conversation, if that is a number, also as text."""
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
