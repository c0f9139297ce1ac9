"""Faults of raw records: a reason to count, and what was found and wanted."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tuning.reading.json_text import fault_of
from tuning.reading.records import MAX_PARTS, num_values

NOT_TEXT = re.compile("[\ud800-\udfff\0]")

REASONS = (
    "missing_group",
    "missing_speaker",
    "no_text",
    "not_a_row",
    "not_json",
    "not_text",
    "not_utf8",
    "preference",
    "repeated_key",
    "unknown_layout",
    "weight",
    "wrong_layout",
)
"""Every reason that a record can be counted under."""


class Invalid(Exception):
    """A reason to count, and what was found and wanted."""

    def __init__(self, reason: str, message: str) -> None:
        """Take one of ``REASONS``, and the message for the user."""
        super().__init__(message)
        self.reason = reason


def decoded(text: str | bytes) -> Any:
    """Return a record's JSON value; a repeated key is a fault: Python would keep the last one.

    Raises:
        Invalid: the text is no UTF-8, no JSON, or not usable.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        if num_values(text) > MAX_PARTS:
            raise Invalid("not_json", f"not usable JSON: more than {MAX_PARTS:,} values")
        return json.loads(text, object_pairs_hook=_object_of)
    except UnicodeDecodeError as error:
        message = f"byte {error.start} of the line is not UTF-8 ({error.reason})"
        raise Invalid("not_utf8", f"{message}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} of it"
        message = f"not JSON: {fault_of(error)} at {place}"
        raise Invalid("not_json", message) from None
    except RecursionError:
        raise Invalid("not_json", "not usable JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        message = str(error).partition(";")[0]
        raise Invalid("not_json", f"not usable JSON: {message}") from None


def unpacked(value: Any) -> Any:
    """Return the list or object that a text is, as JSON; another value as it is.

    Raises:
        Invalid: a key is repeated in it.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return decoded(value)
        except Invalid as invalid:
            if invalid.reason == "repeated_key":
                raise
    return value


def holds(value: Any) -> bool:
    """Tell whether a value says something: it is neither null nor empty."""
    return value is not None and value not in ("", [], {})


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise Invalid("repeated_key", f"the key {key[:40]!r} stands twice in one object")
    return result


def checked(text: str, what: str) -> str:
    """Return a text that is one: without lone surrogates and NUL.

    Raises:
        Invalid: it holds one of these.
    """
    if found_one := NOT_TEXT.search(text):
        name = "the character NUL" if found_one[0] == "\0" else "a lone surrogate"
        raise Invalid("not_text", f"{what} holds {name}, which is not text")
    return text


def found(value: Any) -> str:
    """Say what was found, of what type."""
    return f"found {kind(value)}"


def keys(entry: Any) -> str:
    """Name an object's first keys, for a message; of another value, its kind."""
    if not isinstance(entry, dict):
        return kind(entry)
    return ", ".join(repr(key[:40]) for key in list(entry)[:8]) or "nothing"


def kind(value: Any) -> str:
    """Name a value's type and show its beginning."""
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
