"""WhatsApp's text exports -> one chat, a JSON object of its messages in order.

A message begins with a date, a time and mostly a name; further lines belong to it. Android writes
``12/31/23, 21:15 - Ann: text``, iOS ``[31.12.23, 21:15:03] Ann: text``. The language of the phone
decides the order of a date's parts, so it is told by all dates of the file; what a message means
(a file that was left out, a deleted one) is known to ``corpus/whatsapp.py``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tuning.reading.compression import open_plain
from tuning.reading.records import (
    PIECE_BYTES,
    Gathered,
    RawRecord,
    check_record_size,
    own_key,
)
from tuning.run.errors import UserError

_MARKS: Final = "[\u200e\u200f\u202a-\u202e\ufeff]*"
"""Marks of a text's direction, which iOS puts before what it writes itself."""
_SPACE: Final = "[ \u00a0\u202f]"
_DATE: Final = rf"(\d{{1,4}})[./-]{_SPACE}?(\d{{1,2}})[./-]{_SPACE}?(\d{{1,4}})\.?,?{_SPACE}+"
_HALF: Final = rf"(?:{_SPACE}?([AaPp])\.?{_SPACE}?[Mm]\.?)?"
_HOUR_MINUTE: Final = r"(\d{1,2})[:.](\d{2})"
_IOS: Final = re.compile(
    rf"{_MARKS}\[{_DATE}{_HOUR_MINUTE}(?:[:.](\d{{2}}))?{_HALF}\]{_SPACE}{_MARKS}"
)
_ANDROID: Final = re.compile(rf"{_MARKS}{_DATE}{_HOUR_MINUTE}(){_HALF}{_SPACE}-{_SPACE}{_MARKS}")
_VALUES_PER_LINE: Final = 16
"""Of values of JSON that take as much memory as a line does here."""
_NAME: Final = re.compile('([^:"\u201c\u201d\u00ab\u00bb]{1,80}): ?')
"""A text in quotation marks before a colon is no name: a group's new subject, say."""
_ORDERS: Final = ("dmy", "mdy", "ymd")


def is_chat_text(text: str) -> bool:
    """Tell whether a text begins as such an export does."""
    return _form_of(text.lstrip("\ufeff \t\r\n").partition("\n")[0]) is not None


def read_chat_text(path: Path, name: str) -> Gathered:
    """Return the one chat of a file.

    Args:
        path: The file.
        name: Its name where there are several files.

    Raises:
        UserError: the file is damaged, or not UTF-8.
    """
    with open_plain(path) as file:
        text = bytearray()
        num_lines = 0
        while block := file.read(PIECE_BYTES):
            text += block
            num_lines += block.count(b"\n")
            check_record_size(len(text), str(path), _VALUES_PER_LINE * num_lines)
        if file.damage:
            raise UserError(file.damage)
    try:
        lines = io.StringIO(text.decode("utf-8-sig"), newline=None).read().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from None
    chat = {"app": "WhatsApp", "messages": _messages(lines)}
    record = json.dumps(chat, ensure_ascii=False)
    return Gathered([RawRecord(str(path), own_key(name, path.stem), record, name)])


def _form_of(line: str) -> re.Pattern[str] | None:
    return next((form for form in (_IOS, _ANDROID) if form.match(line)), None)


def _messages(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Each message with its date, its text, and who it is from, unless the app wrote it.

    A line before the first one has its text alone. One that begins as a message does with a date
    that cannot be, which may be quoted, is a line of the message before; ``is_odd`` tells of it.
    """
    form = next(filter(None, map(_form_of, lines)))
    heads = [form.match(line) for line in lines]
    order = _order_of([head.groups() for head in heads if head])
    messages: list[dict[str, Any]] = []
    for line, head in zip(lines, heads, strict=True):
        moment = _moment(head.groups(), order) if head else None
        if head is None or moment is None:  # such a line may be quoted
            if messages and "date" in messages[-1]:
                messages[-1]["text"] += f"\n{line}"
                messages[-1] |= {"is_odd": True} if head else {}
            elif line.strip():
                messages.append({"text": line})
            continue
        rest = line[head.end() :]
        message = {"date": moment.isoformat(), "text": rest}
        if named := _NAME.match(rest):
            message |= {"from": named[1].strip("\u200e\u202a\u202c"), "text": rest[named.end() :]}
        messages.append(message)
    return messages


def _order_of(heads: Sequence[tuple[str, ...]]) -> str:
    """The order of a date's parts: what most dates allow; of two, the one in which time goes on.

    Where nothing tells, the day is first, as in most countries; with a 12 h clock the month is.
    """
    by_default = "mdy" if any(head[6] for head in heads) else "dmy"

    def cost(order: str) -> tuple[int, int, bool]:
        moments = [_moment(head, order) for head in heads]
        known = [moment for moment in moments if moment is not None]
        num_back = sum(later < earlier for earlier, later in pairwise(known))
        return len(moments) - len(known), num_back, order != by_default

    return min(_ORDERS, key=cost)


def _moment(head: tuple[str, ...], order: str) -> datetime | None:
    """The local time that a message's head says; None if there is no such day or hour."""
    *date, hour, minute, second, half = head
    parts = dict(zip(order, date, strict=True))
    if len(parts["y"]) not in (2, 4) or (len(parts["d"]) > 2):
        return None
    year = int(parts["y"]) + (2000 if len(parts["y"]) == 2 else 0)
    hours = int(hour) % 12 + 12 * (half in "Pp") if half else int(hour)
    try:
        return datetime(
            year, int(parts["m"]), int(parts["d"]), hours, int(minute), int(second or 0)
        )
    except ValueError:
        return None
