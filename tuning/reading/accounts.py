"""Names that prep and encode share: sides of the split, buckets of their ledgers, percentiles."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

TRAIN: Final = 0
TEST: Final = 1
VALIDATION: Final = 2
"""The highest number: of duplicates on several sides, that on the highest stays."""
SIDES: Final = ("train", "test", "val")

PERCENTILES = (5, 25, 50, 75, 95, 99)


def bucket(fate: str) -> str:
    """The ledger's name of a side or of a reason: ``train``, ``validation``, ``dropped_…``."""
    if fate in SIDES:
        return {"val": "validation"}.get(fate, fate)
    return f"dropped_{fate}"


def percentiles(values: npt.NDArray[Any]) -> dict[str, float]:
    """``p05`` … ``p99`` (linear between neighbours) and ``max``; zeros where there is no value."""
    found = np.percentile(values, PERCENTILES) if len(values) else np.zeros(len(PERCENTILES))
    named = {f"p{p:02}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}
    return named | {"max": float(values.max(initial=0))}
