"""Files with a message per row: rows of one conversation are gathered into one record.

Rows of a conversation stand together, as exports write them, so that a file of any size is read in
bounded memory; rows that do not are an error that says so. A file whose rows name no conversation
is one chat (SillyTavern's logs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from tuning.corpus import slack
from tuning.corpus.faults import Invalid, decoded
from tuning.corpus.layouts import is_record, layout_of
from tuning.corpus.message_keys import CONVERSATION_KEYS, spellings
from tuning.corpus.messages import is_spoken
from tuning.reading import records as reading
from tuning.reading.pieces import Piece, read_pieces
from tuning.reading.records import Break, Gathered, RawRecord, own_key
from tuning.run.errors import UserError

_HEADER: Final = ("chat_metadata", "character_name")
"""Keys of the first row of SillyTavern's logs, which is no message."""
_NUM_ASKED: Final = 2


def read_dialogues_of(
    path: Path,
    name: str,
    *,
    on_break: Callable[[Break], None] | None = None,
    on_beside: Callable[[str], None] = lambda key: None,
) -> Iterator[Piece]:
    """Yield a file's pieces, or those of a Slack channel's folder; see ``read_pieces``.

    If its rows are messages, they are gathered by conversation.
    """
    files = slack.days_of(path) if path.is_dir() else [path]
    pieces = (
        read_pieces(file, name, is_record=is_record, on_break=on_break, on_beside=on_beside)
        for file in files
    )
    return _gathered(path, name, chain.from_iterable(pieces))


def _gathered(path: Path, file: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
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
        if slack.is_row(rows[0]):
            yield _slack_log(path, file, records)
            return
        key = _key_of(rows[0])
        if key is None and "parent_id" in rows[0]:
            raise UserError(
                f"{path}: a row is a message that answers another one ('parent_id'), and no row "
                "names its conversation; wanted a tree of replies in each record, as in Open "
                "Assistant's files of trees, or rows with a 'conversation_id', in order."
            )
        yield from _conversations(path, file, records, key)
    else:
        yield from whole


def _is_row(entry: Any) -> bool:
    if slack.is_row(entry):
        return True
    try:
        return isinstance(entry, dict) and is_spoken(entry) and layout_of(entry) is None
    except Invalid:
        return False


def _slack_log(path: Path, file: str, rows: Iterable[RawRecord]) -> Gathered:
    """All messages of a channel as one record; a row that is none is a fault by itself."""
    faults: list[RawRecord] = []
    messages: list[Any] = []
    where = str(path)
    for row in rows:
        where = where if messages else row.where
        entry = _entry(row)
        if isinstance(entry, dict):
            messages.append(entry)
        else:
            faults.append(row)
    users = slack.users_of(path) if path.is_dir() else {}
    key = file or path.stem
    return Gathered([*faults, RawRecord(where, key, slack.named(messages, users), file)])


def _key_of(row: Mapping[str, Any]) -> str | None:
    spelled = spellings(row)
    return next((spelled[key] for key in CONVERSATION_KEYS if key in spelled), None)


def _entry(raw: RawRecord) -> Any:
    try:
        return decoded(raw.text)
    except Invalid:
        return None


def _conversations(
    path: Path, file: str, rows: Iterable[RawRecord], key: str | None
) -> Iterator[Gathered]:
    """Pieces of conversations, each a JSON list of its rows at the place of the first."""
    done: list[RawRecord] = []
    own: list[RawRecord] = []
    size, current = 0, ""
    met: set[int] = set()
    for row in rows:
        name = path.stem if key is None else _conversation_of(row, key)
        if name is None:
            done.append(row)  # a fault by itself
            continue
        if own and name != current:
            done.append(_joined(own, current, file))
            met.add(hash(current))
            own = []
            if hash(name) in met:
                raise UserError(
                    f"{row.where}: rows of the conversation {name[:40]!r} stand in several places; "
                    f"sort the file by {key!r}, so that they stand together."
                )
            if size >= reading.PIECE_BYTES:
                yield Gathered(done)
                done, size = [], 0
        current = name
        own.append(row)
        size += len(row.text)
    if own:
        done.append(replace(_joined(own, current, file), is_log=key is None))
    if done:
        yield Gathered(done)


def _joined(rows: list[RawRecord], name: str, file: str) -> RawRecord:
    texts = [
        row.text if isinstance(row.text, str) else row.text.decode("utf-8", "surrogateescape")
        for row in rows
    ]
    return RawRecord(rows[0].where, own_key(file, name), f"[{','.join(texts)}]", file)


def _conversation_of(raw: RawRecord, key: str) -> str | None:
    """The conversation that a row belongs to; None if it is no object that names one."""
    row = _entry(raw)
    value = row.get(key) if isinstance(row, dict) else None
    return str(value) if isinstance(value, str | int | float) and value != "" else None
