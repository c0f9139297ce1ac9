"""What a message looks like: asked before anything of it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tuning.corpus.faults import Invalid, found, holds, keys, unpacked
from tuning.corpus.message_keys import FROM_ME, plan_of, spelled
from tuning.corpus.message_parts import is_item
from tuning.corpus.roles import role_of

_SPEAKS: Final = frozenset({"system", "user", "human", "assistant", "bot", "gpt"})
"""Keys of a message that has no other: who speaks, with the text."""


def is_message(item: Any) -> bool:
    """Tell whether a value looks like a message: an object with a text, or a call, under a name."""
    if not isinstance(item, dict):
        return False
    if unwrapped(item) is not item:
        return True
    plan = plan_of(tuple(item))
    if is_item(item):
        return True
    return any(_looks_said(item[key]) for key in plan.texts) or any(
        holds(item[key]) for key in plan.calls
    )


def is_spoken(item: Any) -> bool:
    """Tell whether a value is a message that says who speaks."""
    item = unwrapped(item) if isinstance(item, dict) else item
    return is_message(item) and speaker_key(item) is not None


def speaker_key(item: Mapping[str, Any]) -> str | None:
    """The key under which a message says who speaks; ``type`` where that is a role (LangChain)."""
    plan = plan_of(tuple(item))
    if plan.who is not None:
        return plan.who
    if isinstance(item.get("is_user"), bool):
        return "is_user"
    mine = next((key for key in item if spelled(key) in FROM_ME), None)
    if mine is not None:
        return mine
    kind = item.get("type")
    return "type" if isinstance(kind, str) and role_of(kind, {}) else None


def unwrapped(item: Any) -> Any:
    """Return a message that stands within another object, under who speaks, or as JSON text.

    LangChain's, agents' logs; ``{"user": "Hello"}``.
    """
    if isinstance(item, str) and item[:1] == "{":
        inner = unpacked(item)
        return inner if is_spoken(inner) else item
    if isinstance(item, dict) and len(item) == 1:
        [(key, value)] = item.items()
        is_said = spelled(key) in _SPEAKS and isinstance(value, str)
        return {"role": key, "content": value} if is_said else item
    if isinstance(item, dict) and ("message" in item or "data" in item):
        for key in ("message", "data"):
            inner = item.get(key)
            if isinstance(inner, dict) and is_message(inner):
                return {name: value for name, value in item.items() if name != key} | inner
    return item


def _looks_said(value: Any) -> bool:
    """Text, or parts of a text; not an object, and not a list of further messages."""
    if isinstance(value, list):
        return not any(
            isinstance(part, dict) and "type" not in part and plan_of(tuple(part)).who
            for part in value
        )
    return not isinstance(value, dict) or isinstance(value.get("parts"), list)


def as_rows(items: Any, what: str) -> list[Any]:
    """Return a list; a dict of equally long lists (Parquet's readers) is one of objects.

    Raises:
        Invalid: it is neither.
    """
    if isinstance(items, dict) and items and all(isinstance(v, list) for v in items.values()):
        lengths = {len(column) for column in items.values()}
        if len(lengths) == 1:
            return [dict(zip(items, row, strict=True)) for row in zip(*items.values(), strict=True)]
        raise Invalid(
            "wrong_layout", f"{what!r}: wanted lists of one length, found {sorted(lengths)}"
        )
    if not isinstance(items, list):
        is_python = isinstance(items, str) and items.lstrip()[:3] in ("[{'", "['", "[['")
        hint = " (Python's form; write it with json.dumps)" if is_python else ""
        raise Invalid("wrong_layout", f"{what!r}: wanted a list, {found(items)}{hint}")
    return items


def check_flat(items: Sequence[Any], what: str) -> None:
    """Raise ``Invalid`` if a message has replies of its own: siblings do not answer each other."""
    for number, item in enumerate(items, start=1):
        replies = item.get("replies") if isinstance(item, dict) else None
        if isinstance(replies, list) and replies and is_message(replies[0]):
            raise Invalid(
                "wrong_layout",
                f"{what} {number}: found 'replies' within a message of a list; wanted a tree that "
                "begins with one message: an object with its 'text', 'role' and 'replies'",
            )


def check_speakers(items: Sequence[Any], what: str) -> None:
    """Either all messages say who speaks, or none."""
    said = [speaker_key(item) if isinstance(item, dict) else "" for item in items]
    named_by = next(filter(None, said), None)
    if named_by is not None and None in said:
        first = said.index(None)
        wanted = f"wanted {named_by!r} as in others, found {keys(items[first])}"
        raise Invalid("missing_speaker", f"{what} {first + 1}: {wanted}")
