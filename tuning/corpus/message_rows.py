"""Files with a message per row: rows of one conversation are gathered into one record.

Rows of a conversation stand together, as exports write them, so that a file of any size is read in
bounded memory; rows that do not are an error that says so. Where rows name no conversation, one
begins where their turns' numbers begin anew; else each channel is one chat, and without channels
the file is (SillyTavern's logs).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from tuning.corpus import slack
from tuning.corpus.columns import Columns
from tuning.corpus.faults import Invalid, decoded
from tuning.corpus.layouts import is_record, layout_of
from tuning.corpus.message_keys import CHANNEL_KEYS, CONVERSATION_KEYS, plan_of, spellings
from tuning.corpus.message_shapes import is_spoken
from tuning.corpus.turn_numbers import turn_number
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
    columns: Columns,
    on_break: Callable[[Break], None] | None = None,
    on_beside: Callable[[str], None] = lambda key: None,
    on_read: Callable[[int], None] = lambda num_bytes: None,
) -> Iterator[Piece]:
    """Yield a file's pieces, or those of a Slack channel's folder; see ``read_pieces``.

    If its rows are messages, they are gathered by conversation, which ``data.columns.id`` may name.
    """
    files = slack.days_of(path) if path.is_dir() else [path]
    pieces = (
        read_pieces(
            file,
            name,
            is_record=is_record,
            on_break=on_break,
            on_beside=on_beside,
            on_read=on_read,
        )
        for file in files
    )
    return _gathered(path, name, columns, chain.from_iterable(pieces))


def _gathered(path: Path, file: str, columns: Columns, pieces: Iterator[Piece]) -> Iterator[Piece]:
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
    if not rows or not all(_is_row(row, columns) for row in rows):
        yield from whole
        return
    records = chain.from_iterable(piece.records() for piece in whole)
    if is_headed:
        next(records)
    row = rows[0]
    key, channel = _key_of(row, CONVERSATION_KEYS), _key_of(row, CHANNEL_KEYS)
    turn = plan_of(tuple(row)).turn
    if slack.is_row(row):
        yield _slack_log(path, file, records)
    elif columns.id_of(row) is not None:
        yield from _conversations(file, records, columns.id_of, "data.columns.id")
    elif key is not None:
        yield from _conversations(file, records, partial(_value, key), key)
    elif "parent_id" in row:
        raise UserError(
            f"{path}: a row is a message that answers another one ('parent_id'), and no row "
            "names its conversation; wanted a tree of replies in each record, as in Open "
            "Assistant's files of trees, or rows with a 'conversation_id', in order."
        )
    elif turn is not None and turn_number(row, turn) is not None and channel is None:
        yield from _numbered(path, file, records, turn)
    else:
        yield from _logs(path, file, records, channel)


def _is_row(entry: Any, columns: Columns) -> bool:
    if slack.is_row(entry):
        return True
    try:
        if columns.is_row(entry):
            return True
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


def _key_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    spelled = spellings(row)
    return next((spelled[name] for name in names if name in spelled), None)


def _entry(raw: RawRecord) -> Any:
    try:
        return decoded(raw.text)
    except Invalid:
        return None


def _conversations(
    file: str, rows: Iterable[RawRecord], name_of: Callable[[Any], str | None], key: str
) -> Iterator[Gathered]:
    """Pieces of conversations, each a JSON list of its rows at the place of the first."""
    done: list[RawRecord] = []
    own: list[RawRecord] = []
    size, current = 0, ""
    met: set[int] = set()
    for row in rows:
        name = name_of(_entry(row))
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
        done.append(_joined(own, current, file))
    if done:
        yield Gathered(done)


def _numbered(path: Path, file: str, rows: Iterable[RawRecord], key: str) -> Iterator[Gathered]:
    """A conversation from each row that has the first one's number again; if none has, one log."""
    own: list[RawRecord] = []
    num_done, begin, last = 0, None, None
    for row in rows:
        number = turn_number(_entry(row), key)
        if own and number is not None and number == begin and last != begin:
            num_done += 1
            yield Gathered([_joined(own, f"{path.stem}/{num_done}", file)])
            own = []
        begin = number if not num_done and not own else begin
        last = number
        own.append(row)
    name = f"{path.stem}/{num_done + 1}" if num_done else path.stem
    yield Gathered([replace(_joined(own, name, file), is_log=not num_done)])


def _logs(
    path: Path, file: str, rows: Iterable[RawRecord], channel: str | None
) -> Iterator[Gathered]:
    """A log for each channel, wherever its rows stand; one for a file whose rows name none."""
    logs: dict[str, list[RawRecord]] = {}
    for row in rows:
        entry = _entry(row) if channel is not None else None
        name = None
        if channel is not None and isinstance(entry, dict):
            name = _value(channel, entry)
            own = {key: value for key, value in entry.items() if key != channel}
            row = replace(row, text=json.dumps(own, ensure_ascii=False))
        logs.setdefault(name or path.stem, []).append(row)
    yield Gathered([replace(_joined(own, name, file), is_log=True) for name, own in logs.items()])


def _joined(rows: list[RawRecord], name: str, file: str) -> RawRecord:
    texts = [
        row.text if isinstance(row.text, str) else row.text.decode("utf-8", "surrogateescape")
        for row in rows
    ]
    return RawRecord(rows[0].where, own_key(file, name), f"[{','.join(texts)}]", file)


def _value(key: str, row: Any) -> str | None:
    """The conversation that a row belongs to; None if it is no object that names one."""
    value = row.get(key) if isinstance(row, dict) else None
    return str(value) if isinstance(value, str | int | float) and value != "" else None
