"""People's text where it is read: what cannot be seen is spelled out, and names are short.

Ids, names and texts are data of strangers. A line end in one would forge a line of a page, ``ESC``
would steer the terminal, a mark of direction would turn the text around it, ``<`` would be markup.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

MAX_NAME = 200
"""Characters of a name that are shown."""
JOINER = "\u200d"
"""Cannot be seen, and joins the parts of an emoji."""

_STAND_INS = {"\n": "↵", "\t": "⇥"}
_MARKUP = re.compile(r"[<>`|…]|\](?=\()")
_FORMULA = ("=", "+", "-", "@")


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with each character that cannot be seen spelled out, but for those of keep.

    A right-to-left override becomes ``\u202e``, a line end ``\n``.
    """
    return "".join(c if c.isprintable() or c in keep else _spelled(c) for c in text)


def visible_characters(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what to print for each character, and whether it stands in for an unseen one."""
    for character in text:
        if character.isprintable():
            yield character, False
        else:
            yield _STAND_INS.get(character) or _spelled(character), True


def as_name(text: str) -> str:
    """Return a name for one line of a table, a page or a terminal; different ones stay different.

    Nearly all come back as they are. What holds characters that cannot be seen or that HTML,
    Markdown or a spreadsheet would obey, or is longer than ``MAX_NAME``, becomes its beginning with
    these spelled out, ``…``, and 12 digits of the SHA-256 of what it was.
    """
    shown = _MARKUP.sub(lambda found: _spelled(found[0]), visible(text))
    if shown.startswith(_FORMULA):
        shown = f"'{shown}"
    if shown == text and len(text) <= MAX_NAME:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{shown[:MAX_NAME]}…{digest[:12]}"


def _spelled(character: str) -> str:
    escaped = ascii(character)[1:-1]
    return escaped if escaped != character else f"\\x{ord(character):02x}"
