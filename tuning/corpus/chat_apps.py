"""Exports of chat apps: Telegram, Discord, Messenger and Instagram."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuning.corpus.beside import ID_KEYS
from tuning.corpus.drafts import Draft, DraftTurn, time_of
from tuning.corpus.faults import holds
from tuning.corpus.message_keys import TIME_KEYS
from tuning.corpus.messages import Reader

_TELEGRAM: Final = {"text_entities", "from_id", "actor"}
"""Keys that only its messages have."""
_USED: Final = ("content", "text", "type", "id", "from_id", "is_unsent")


@dataclass(frozen=True)
class _App:
    """How one app writes a chat."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    """Asked of a chat."""
    who: str
    kind: Callable[[Mapping[str, Any]], str | None]
    """Names what a message is, if it is none of the conversation."""
    text: Callable[[Mapping[str, Any]], Any]
    mends: bool = False
    """Whether names are spelled as ``mended`` says."""


def is_export(entry: Any) -> bool:
    """Tell whether an object is one chat of an app's export."""
    return isinstance(entry, dict) and _app(entry) is not None


def _app(entry: Mapping[str, Any]) -> _App | None:
    messages = entry.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
        return None
    return next((app for app in _APPS if app.fits(entry)), None)


def read_export(entry: Any, reader: Reader) -> list[Draft]:
    """Read a chat in the order of its times; what is no message is counted by its kind."""
    app = _app(entry)
    assert app is not None
    turns: list[DraftTurn] = []
    for number, message in enumerate(entry["messages"]):
        kind = app.kind(message) if isinstance(message, dict) else "not an object"
        if kind is not None:
            reader.passed_over[f"{app.name}: {kind}"[:80]] += 1
            continue
        who = message.get(app.who) or message.get("from_id") or "deleted account"
        if app.mends and isinstance(who, str):
            who = mended(who)
        # A name is a person's, whatever it spells.
        own = {"author" if isinstance(who, dict) else "name": who, "text": app.text(message)}
        own |= {key: message[key] for key in TIME_KEYS if key in message}
        turns.append(reader.turn(own, f"message {number + 1}", number))
        reader.leave(message, {app.who, *_USED, *TIME_KEYS}, "message.")
    times = [time_of(turn.time) for turn in turns]
    if times and None not in times:
        if (times[0] or 0.0) > (times[-1] or 0.0):  # Messenger begins with the newest
            turns, times = turns[::-1], times[::-1]
        order = sorted(range(len(turns)), key=lambda number: times[number] or 0.0)
        turns = [turns[number] for number in order]
    reader.leave(entry, {"messages", *ID_KEYS})
    return [Draft(turns, is_log=True)]


def _telegram_kind(message: Mapping[str, Any]) -> str | None:
    if message.get("type") != "message":
        return f"{message.get('type', 'unknown')} messages"
    if not _telegram_text(message).strip():
        return "messages without text"
    return None


def _telegram_text(message: Mapping[str, Any]) -> str:
    text = message.get("text", "")
    parts = text if isinstance(text, list) else [text]
    return "".join(str(p.get("text", "")) if isinstance(p, dict) else str(p) for p in parts)


def _discord_kind(message: Mapping[str, Any]) -> str | None:
    if message.get("type", "Default") not in ("Default", "Reply", 0, 19):
        return f"{message['type']} messages"
    return None if _has_content(message) else "messages without text"


def _has_content(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return bool(content.strip()) if isinstance(content, str) else holds(content)


def _messenger_kind(message: Mapping[str, Any]) -> str | None:
    if message.get("is_unsent"):
        return "unsent messages"
    if message.get("type", "Generic") not in ("Generic", "Share"):
        return f"{message['type']} messages"
    return None if _has_content(message) else "messages without text"


def _messenger_text(message: Mapping[str, Any]) -> Any:
    content = message["content"]
    return mended(content) if isinstance(content, str) else content


def mended(text: str) -> str:
    """Undo Messenger's spelling of UTF-8 bytes as Latin-1 characters; leave other texts alone."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


_APPS: Final = (
    _App(
        "Telegram",
        lambda chat: (
            "type" in chat
            and any(
                isinstance(m, dict) and not m.keys().isdisjoint(_TELEGRAM)
                for m in chat["messages"][:5]
            )
        ),
        "from",
        _telegram_kind,
        _telegram_text,
    ),
    _App(
        "Discord",
        lambda chat: "channel" in chat and isinstance(chat["messages"][0].get("author"), dict),
        "author",
        _discord_kind,
        lambda message: message["content"],
    ),
    _App(
        "Messenger",
        lambda chat: "participants" in chat and "sender_name" in chat["messages"][0],
        "sender_name",
        _messenger_kind,
        _messenger_text,
        mends=True,
    ),
)
