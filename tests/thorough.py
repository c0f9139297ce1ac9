"""How many examples hypothesis takes: few, or all of them where ``THOROUGH`` is set."""

from __future__ import annotations

import os


def few_or_all(number: int) -> int:
    """Return ``number``, or a quarter of it (ten at least) where nobody asks for all."""
    return number if os.environ.get("THOROUGH") else min(number, max(10, number // 4))
