"""Files with a message per row: rows of one conversation are gathered into one record.

Rows of a conversation stand together, as exports write them, so that a file of any size is read in
bounded memory; rows that do not are an error that says so. A file whose rows name no conversation
is one chat (SillyTavern's logs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

from tuning.corpus.faults import Invalid, decoded
from tuning.corpus.layouts import layout_of
from tuning.corpus.messages import CONVERSATION_KEYS, is_spoken
from tuning.reading.documents import Elements
from tuning.reading.pieces import Piece, RawRecord
from tuning.reading.records import PIECE_BYTES
from tuning.run.errors import UserError

_HEADER: Final = ("chat_metadata", "character_name")
"""Keys of the first row of SillyTavern's logs, which is no message."""
_NUM_ASKED: Final = 2


def gathered(path: Path, name: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yield a file's pieces as they are, or gathered by conversation if its rows are messages."""
    first = next(pieces, None)
    if first is None:
        return
    asked = []
    for raw in first.records():
        asked.append(_entry(raw))
        if len(asked) == _NUM_ASKED:
            break
    whole = chain([first], pieces)
    is_headed = bool(asked) and isinstance(asked[0], dict) and any(k in asked[0] for k in _HEADER)
    rows = asked[is_headed:]
    if rows and all(map(_is_row, rows)):
        records = chain.from_iterable(piece.records() for piece in whole)
        if is_headed:
            next(records)
        yield from _conversations(path, name, records, _key_of(rows[0]))
    else:
        yield from whole


def _is_row(entry: Any) -> bool:
    return isinstance(entry, dict) and is_spoken(entry) and layout_of(entry) is None


def _key_of(row: Mapping[str, Any]) -> str | None:
    return next((key for key in CONVERSATION_KEYS if key in row), None)


def _entry(raw: RawRecord) -> Any:
    try:
        return decoded(raw.text)
    except Invalid:
        return None


def _conversations(
    path: Path, file: str, rows: Iterable[RawRecord], key: str | None
) -> Iterator[Elements]:
    """Pieces of conversations, each a JSON list of its rows' texts."""
    entries: list[tuple[str | None, str]] = []
    own: list[str] = []
    number, size, current = 1, 0, ""
    met: set[int] = set()
    for raw in rows:
        text = (
            raw.text if isinstance(raw.text, str) else raw.text.decode("utf-8", "surrogateescape")
        )
        row = _entry(raw) if key is not None else None
        name = str(row.get(key)) if isinstance(row, dict) and key is not None else path.stem
        if own and name != current:
            entries.append((current, f"[{','.join(own)}]"))
            met.add(hash(current))
            own = []
            if hash(name) in met:
                raise UserError(
                    f"{raw.where}: rows of the conversation {name[:40]!r} stand in several places; "
                    f"sort the file by {key!r}, so that they stand together."
                )
        if size >= PIECE_BYTES and not own:
            yield Elements(path, file, number, entries)
            number, size, entries = number + len(entries), 0, []
        current = name
        own.append(text)
        size += len(text)
    if own:
        entries.append((current, f"[{','.join(own)}]"))
    if entries:
        yield Elements(path, file, number, entries)
