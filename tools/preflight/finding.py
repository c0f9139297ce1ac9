"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do; or what the run is going to take."""

    kind: Literal["error", "warning", "plan"]
    text: str
