"""Finds private data in a text, and tells quickly of nearly all texts that they hold none.

Hardly any text between people holds something of the kind, and looking closely at all of it would
cost more than the rest of prep. So a finder runs only where the least that it needs is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tuning.corpus import private_forms as forms
from tuning.corpus.private_forms import Finder, Span


def find(text: str, region: str | None) -> list[Span]:
    """Find the private data of a text.

    Args:
        text: Any text without NUL.
        region: Its phone numbers are found without a country code too, say ``US``'s; None: of all
            regions, those with one.

    Returns:
        The findings in order. None overlap: the kind whose form is stricter, which is the one
        whose finder is earlier, takes the characters.
    """
    spans: list[Span] = []
    rest = text
    for finder in _likely_finders(text):
        found = list(finder(rest, region))
        rest = forms.without(rest, found)
        spans += found
    return sorted(spans)


def may_hold_any(text: str) -> bool:
    """Tell quickly whether a text, or any of the texts whose lines it is, may have a finding."""
    return next(_likely_finders(text), None) is not None


def _likely_finders(text: str) -> Iterator[Finder]:
    """Yield the finders that may find something in a text or in one of its lines, in order.

    Bytes are translated and searched several times faster than an expression is. Letters and
    dashes become x, digits become 0.
    """
    has_at = "@" in text
    characters = (text if text.isascii() else _as_ascii(text)).encode()
    num_digits = len(characters.translate(None, _NO_DIGITS))
    is_mixed = num_digits > 0 and _X0.search(characters.translate(_CLASSES)) is not None
    number = characters.translate(_CLASSES, _BETWEEN) if num_digits >= 5 else b""
    has_number = b"0" * 5 in number
    if (is_mixed and b"x" * 16 in characters.translate(_RUNS)) or (has_at and "://" in text):
        yield forms.keys
    if has_number and forms.IBAN_BEGIN.search(text):
        yield forms.ibans
    if b"0" * 13 in number and forms.CARD_DIGITS.search(text):
        yield forms.cards
    if (has_at and forms.EMAIL_AT.search(text)) or (
        (" dot " in text or ".com" in text or _has_brackets(text)) and forms.SPELLED_AT.search(text)
    ):
        yield forms.emails
    if forms.V6_COLONS.search(text):
        yield forms.v6_addresses
    if has_number and forms.V4_POINTS.search(text):
        yield forms.v4_addresses
    if b"0" * 7 in number and forms.PHONE_DIGITS.search(text):
        yield forms.phones
    if (is_mixed or has_number) and next(forms.secrets_said(text), None):
        yield forms.secrets


_LETTERS: Final = bytes(b for b in range(256) if b >= 128 or chr(b).isalpha() or b == ord("_"))
_DIGITS: Final = b"0123456789"
_NO_DIGITS: Final = bytes(b for b in range(256) if b not in _DIGITS)
_BETWEEN: Final = bytes(b for b in _NO_DIGITS if b not in _LETTERS and b != ord("\n"))
_CLASSES: Final = bytes.maketrans(_LETTERS + b"-" + _DIGITS, b"x" * (len(_LETTERS) + 1) + b"0" * 10)
_RUNS: Final = bytes.maketrans(_LETTERS + _DIGITS + b"-", b"x" * (len(_LETTERS) + 11))
_X0: Final = re.compile(b"0(?<=x0)")
_OTHER_DIGIT: Final = re.compile(r"[^\W\D0-9]")
_OTHER_SIGN: Final = re.compile(r"[^\w\x00-\x7f]")


def _as_ascii(text: str) -> str:
    """Put a digit of this script for each of another, and a space for signs such as a long dash."""
    return _OTHER_SIGN.sub(" ", _OTHER_DIGIT.sub("0", text))


def _has_brackets(text: str) -> bool:
    """Tell whether there is ``[at]`` or ``(at)``."""
    return ("]" in text and "at]" in text) or (")" in text and "at)" in text)
