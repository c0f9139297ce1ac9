"""Dialogues as a layout reads them: before white space is stripped, before sessions are cut."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tuning.corpus.faults import Invalid
from tuning.dialogue import Role, ToolCall

_SECONDS: Final = re.compile(r"\d{9,13}(?:\.\d+)?")
"""A number of seconds or milliseconds that stands there as text; a date has eight digits."""


@dataclass(slots=True)
class DraftTurn:
    """A turn before white space is stripped and its lines are joined."""

    speaker: str
    lines: list[str]
    role: Role | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    weight: float = 1.0
    time: Any = None
    """As the message has it; ``time_of`` reads it."""
    spelled: str = ""
    """The speaker's name, if it spells the role but may be a person's."""

    def beside_words(self) -> tuple[Any, ...]:
        """Return all but its lines and its time."""
        return (
            self.speaker,
            self.role,
            self.reasoning,
            self.tool_calls,
            self.tool_call_id,
            self.weight,
            self.spelled,
        )


@dataclass(slots=True)
class Draft:
    """A dialogue as a layout reads it."""

    turns: list[DraftTurn]
    tools: str = ""
    dialogue_id: str | None = None
    is_log: bool = False
    """A chat that goes on and on: cut into sessions."""
    tree: str = ""
    """Names the tree that this is a branch of, if it is: all its branches stay on one side."""
    place: str = ""
    """The keys and numbers that lead to it in its record, where that holds several."""
    fault: Invalid | None = None
    """What keeps it from being a dialogue, where its record holds several."""


def time_of(value: Any) -> float | None:
    """Return seconds since 1970 of a number of seconds or milliseconds, or of an ISO date."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str) and _SECONDS.fullmatch(value.strip()):
        value = float(value)
    try:
        if isinstance(value, int | float):
            seconds = float(value) / (1000 if value > 1e11 else 1)
        else:
            moment = datetime.fromisoformat(str(value).strip().replace("Z", "+00:00"))
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
