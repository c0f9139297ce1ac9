"""Numbers as people read them, on pages and in the terminal."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return ``1 dialogue``, ``1,200 dialogues``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
