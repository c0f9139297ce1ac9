"""Flags of a message or record that say whether it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tuning.corpus.drafts import DraftTurn
from tuning.corpus.faults import Invalid, found
from tuning.corpus.message_keys import FLAG_KEYS, MASKS, METRICS, spelled

_FLAGS: Final = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def weigh(turns: Sequence[DraftTurn], entry: Any, where: str) -> None:
    """Take the weight from all turns of a record or exchange whose own flags say so.

    Raises:
        Invalid: a flag says neither this nor the other.
    """
    if not isinstance(entry, dict):
        return
    flags = flags_of(entry)
    if flags and weight_of(entry, flags, where) == 0:
        for turn in turns:
            turn.weight = 0.0
    for key, value in entry.items():
        if is_flag_of_each(key, value):
            _weigh_each(turns, key, value, where)


def is_flag_of_each(key: str, value: Any) -> bool:
    """Tell whether a key holds a list with a flag for each message beside it."""
    return (
        isinstance(value, list)
        and spelled(key) in FLAG_KEYS
        and bool(value)
        and all(str(one).strip().casefold() in _FLAGS for one in value)
    )


def _weigh_each(turns: Sequence[DraftTurn], key: str, values: list[Any], where: str) -> None:
    """Take the weight from the turns of which a list of flags says so; a system text may lack one.

    Raises:
        Invalid: there are more or fewer flags than turns.
    """
    begin = len(turns) - len(values)
    if begin not in (0, 1) or (begin and turns[0].role != "system"):
        raise Invalid(
            "weight",
            f"{where}: {key!r}: wanted a flag for each of {len(turns)} turns, found {len(values)}",
        )
    for turn, value in zip(turns[begin:], values, strict=True):
        turn.weight = min(turn.weight, weight_of({key: value}, [key], where))


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
    """Return 0 or 1: whether a message or record is trained, by all flags that it has.

    Raises:
        Invalid: a flag says anything else.
    """
    weight = 1.0
    for key in flags:
        value = item[key]
        if value is None or value == "":
            continue
        flag = _FLAGS.get(str(value).strip().casefold())
        if flag is None:
            is_mask = spelled(key) in MASKS
            meaning = "1 (not trained) or 0 (trained)" if is_mask else "1 (trained) or 0 (not)"
            raise Invalid("weight", f"{where}: {key!r}: wanted {meaning}, {found(value)}")
        is_trained = flag != (spelled(key) in MASKS)
        weight = min(weight, float(is_trained))
    return weight
