"""Ids that look like pieces of one conversation: ``abc_0``, ``abc_57``.

Data sets of long conversations are often cut into such pieces, and those of one conversation must
not stand on both sides of the split. Nothing but their ids tells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tuning.corpus.beside import id_key
from tuning.corpus.duplicates import UInts

Bools = npt.NDArray[np.bool_]

_NUMBERED: Final = re.compile(r"(.+?)([_\-./:#])\d{1,9}")
_MIN_STEMS: Final = 5
"""Fewer are no conversations but, say, the names of a data set's parts."""
_MIN_SHARE: Final = 0.1
"""Of the dialogues, those whose stem another one has; fewer are chance."""


def stem_of(name: str) -> str:
    """Return what stands before the number at an id's end, with the mark between; else nothing."""
    numbered = _NUMBERED.fullmatch(name)
    return f"{numbered[1]}{numbered[2]}" if numbered else ""


def expression(entry: Any, column: str | None, stem: str) -> str:
    """Return the ``data.group_by`` that keeps together what has a stem.

    Args:
        entry: A record.
        column: ``data.columns.id``.
        stem: That of its id.
    """
    key = column or (id_key(entry) if isinstance(entry, Mapping) else None)
    return f"before({key}, '{stem[-1]}')"


def warning(
    stems: UInts, is_train: Bools, id_of: Callable[[int], str], settings: Counter[str]
) -> str:
    """Say that pieces of one conversation seem to stand on both sides of the split, and what helps.

    Args:
        stems: ``[D]``: hashes of the stems of the dialogues on any side; 0 where an id has none.
        is_train: ``[D]``: whether they are on the side that is trained.
        id_of: The id of the dialogue at an index of these.
        settings: What ``expression`` gave, with counts.

    Returns:
        Nothing if none do: few ids are alike, or so many that they are merely numbered.
    """
    numbered = np.flatnonzero(stems)
    found, which, sizes = np.unique(stems[numbered], return_inverse=True, return_counts=True)
    num_train = np.bincount(which, is_train[numbered], len(found))
    straddles = (num_train > 0) & (num_train < sizes)
    num_pieces = int(sizes[sizes > 1].sum())
    is_numbering = len(found) < _MIN_STEMS or sizes.max() > len(numbered) / 2
    if is_numbering or num_pieces < _MIN_SHARE * len(stems) or not straddles.any():
        return ""
    first, second, *_ = map(id_of, numbered[which == int(straddles.argmax())].tolist())
    [(setting, _)] = settings.most_common(1)
    return (
        f"{num_pieces:,} of {len(stems):,} dialogues have ids that look like pieces of "
        f"{int((sizes > 1).sum()):,} conversations ({first!r}, {second!r}), of which "
        f"{int(straddles.sum()):,} stand on both sides of the split. If they are, this keeps each "
        f'on one side: data.group_by: "{setting}"'
    )
