"""Flags of a message or record that say whether it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tuning.corpus.drafts import DraftTurn
from tuning.corpus.faults import Invalid, found
from tuning.corpus.message_keys import FLAG_KEYS, MASKS, METRICS, WEIGHTS, spelled

_FLAGS: Final = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

LEAST, MOST = 1e-6, 1_000_000
"""Weights but 0, which single precision keeps apart from nothing."""


def weigh(turns: Sequence[DraftTurn], entry: Any, where: str) -> None:
    """Weigh all turns of a record or exchange as its own flags say.

    Raises:
        Invalid: a flag says neither this nor the other.
    """
    if not isinstance(entry, dict):
        return
    flags = flags_of(entry)
    weight = weight_of(entry, flags, where)
    for turn in turns:
        _weigh_by(turn, weight, where)
    for key, value in entry.items():
        if is_flag_of_each(key, value):
            _weigh_each(turns, key, value, where)


def _weigh_by(turn: DraftTurn, weight: float, where: str) -> None:
    """Multiply a turn's weight: that of its record counts times its own.

    Raises:
        Invalid: the product is no sane weight.
    """
    turn.weight *= weight
    if turn.weight and not is_share(turn.weight):
        raise Invalid(
            "weight",
            f"{where}: weights that come to {turn.weight:g}; wanted 0, or {LEAST:g} to {MOST:,}",
        )


def is_flag_of_each(key: str, value: Any) -> bool:
    """Tell whether a key holds a list with a flag for each message beside it."""
    return (
        isinstance(value, list)
        and spelled(key) in FLAG_KEYS
        and not any(isinstance(one, dict | list) or is_measured(key, one) for one in value)
        and any(_weight_in(key, one) is not None for one in value)
    )


def _weigh_each(turns: Sequence[DraftTurn], key: str, values: list[Any], where: str) -> None:
    """Weigh the turns as a list of flags says; a system text may lack one.

    Raises:
        Invalid: there are more or fewer flags than turns.
    """
    begin = len(turns) - len(values)
    if begin not in (0, 1) or (begin and turns[0].role != "system"):
        raise Invalid(
            "weight",
            f"{where}: {key!r}: wanted a flag for each of {len(turns)} turns (a system text may "
            f"lack one), found {len(values)}",
        )
    for turn, value in zip(turns[begin:], values, strict=True):
        _weigh_by(turn, weight_of({key: value}, [key], where), where)


def flags_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the keys of a record's flags, in any case."""
    return [
        key
        for key, value in entry.items()
        if spelled(key) in FLAG_KEYS
        and not isinstance(value, dict | list)
        and not is_measured(key, value)
    ]


def is_measured(key: str, value: Any) -> bool:
    """Tell whether what may be a flag is a figure: somebody's measured loss."""
    if spelled(key) not in METRICS or isinstance(value, bool):
        return False
    try:
        return float(value) not in (0, 1)
    except (TypeError, ValueError, OverflowError):
        return False


def weight_of(item: Mapping[str, Any], flags: Sequence[str], where: str) -> float:
    """Return a message's or record's share in the loss, by all flags that it has; 0: not trained.

    Raises:
        Invalid: a flag says neither this nor that, or a weight is no sane number.
    """
    weight = 1.0
    for key in flags:
        value = item[key]
        if value is None or value == "":
            continue
        own = _weight_in(key, value)
        if own is None:
            is_mask = spelled(key) in MASKS
            meaning = "1 (not trained) or 0 (trained)" if is_mask else "1 (trained) or 0 (not)"
            if spelled(key) in WEIGHTS:
                meaning = f"0 (not trained), or a number from {LEAST:g} to {MOST:,}"
            raise Invalid("weight", f"{where}: {key!r}: wanted {meaning}, {found(value)}")
        weight *= own
    return weight


def _weight_in(key: str, value: Any) -> float | None:
    """Return what a flag's value comes to: 0, 1 or a share; None if it says nothing of the kind."""
    flag = _FLAGS.get(str(value).strip().casefold())
    if flag is not None:
        return float(flag != (spelled(key) in MASKS))
    return float(value) if spelled(key) in WEIGHTS and is_share(value) else None


def is_share(value: Any) -> bool:
    """Tell whether a value is a weight, or a text that spells one."""
    try:
        return not isinstance(value, bool) and LEAST <= float(value) <= MOST
    except (TypeError, ValueError, OverflowError):
        return False
