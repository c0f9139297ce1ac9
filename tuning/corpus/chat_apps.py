"""Exports of chat apps: Telegram, Discord, Messenger and Instagram, WhatsApp, Slack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuning.corpus import slack, whatsapp
from tuning.corpus.beside import ID_KEYS
from tuning.corpus.drafts import Draft, DraftTurn, time_of
from tuning.corpus.faults import holds
from tuning.corpus.message_keys import TIME_KEYS
from tuning.corpus.messages import Reader

_TELEGRAM: Final = {"text_entities", "from_id", "actor"}
"""Keys that only its messages have."""
_USED: Final = ("content", "text", "type", "id", "from_id", "is_unsent")


def _from(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """Who wrote a message, by the key of the name."""
    return lambda message: message.get(key) or message.get("from_id")


@dataclass(frozen=True)
class _App:
    """How one app writes a chat."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    """Asked of a chat."""
    who: Callable[[Mapping[str, Any]], Any]
    kind: Callable[[Mapping[str, Any]], str | None]
    """Names what a message is, if it is none of the conversation."""
    text: Callable[[Mapping[str, Any]], Any]
    used: tuple[str, ...]
    """Keys of a message that say who wrote it, or what it is."""
    mends: bool = False
    """Whether names are spelled as ``mended`` says."""
    thread: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """Names the thread that a message is of, which is a dialogue by itself."""
    aside: Callable[[Mapping[str, Any]], str | None] = lambda _: None
    """Names what stands beside a message's words."""
    is_in_order: bool = False
    """Whether messages stand as they were written, also where a clock is set back."""


def is_export(entry: Any) -> bool:
    """Tell whether a value is one chat of an app's export."""
    return _app(_chat(entry)) is not None


def _chat(entry: Any) -> Mapping[str, Any]:
    """An object with messages, as most apps write it; Slack writes a list of them."""
    if isinstance(entry, dict):
        return entry
    return {"messages": entry} if isinstance(entry, list) else {}


def _app(chat: Mapping[str, Any]) -> _App | None:
    messages = chat.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
        return None
    return next((app for app in _APPS if app.fits(chat)), None)


def read_export(entry: Any, reader: Reader) -> list[Draft]:
    """Read a chat in the order of its times; what is no message is counted by its kind."""
    chat = _chat(entry)
    app = _app(chat)
    assert app is not None
    threads: dict[str, list[DraftTurn]] = {"": []}
    for number, message in enumerate(chat["messages"]):
        kind = app.kind(message) if isinstance(message, dict) else "not an object"
        aside = None if kind is not None else app.aside(message)
        for passed_over in filter(None, (kind, aside)):
            reader.passed_over[f"{app.name}: {passed_over}"[:80]] += 1
        if kind is not None:
            continue
        who = app.who(message) or "deleted account"
        if app.mends and isinstance(who, str):
            who = mended(who)
        # A name is a person's, whatever it spells.
        own = {"author" if isinstance(who, dict) else "name": who, "text": app.text(message)}
        own |= {key: message[key] for key in TIME_KEYS if key in message}
        turn = reader.turn(own, f"message {number + 1}", number)
        threads.setdefault(app.thread(message), []).append(turn)
        reader.leave(message, {*app.used, *_USED, *TIME_KEYS}, "message.")
    reader.leave(chat, {"messages", "app", *ID_KEYS})
    log = threads.pop("")
    drafts = [] if threads and not log else [Draft(_in_order(log, app), is_log=True)]
    for name, turns in threads.items():
        drafts.append(Draft(_in_order(turns, app), dialogue_id=f"/thread-{name}"))
    return drafts


def _in_order(turns: list[DraftTurn], app: _App) -> list[DraftTurn]:
    """By their times, if all have one."""
    times = [time_of(turn.time) for turn in turns]
    if not times or None in times or app.is_in_order:
        return turns
    if (times[0] or 0.0) > (times[-1] or 0.0):  # Messenger begins with the newest
        turns, times = turns[::-1], times[::-1]
    return [turns[n] for n in sorted(range(len(turns)), key=lambda number: times[number] or 0.0)]


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
        _from("from"),
        _telegram_kind,
        _telegram_text,
        ("from",),
    ),
    _App(
        "Discord",
        lambda chat: "channel" in chat and isinstance(chat["messages"][0].get("author"), dict),
        _from("author"),
        _discord_kind,
        lambda message: message["content"],
        ("author",),
    ),
    _App(
        "Messenger",
        lambda chat: "participants" in chat and "sender_name" in chat["messages"][0],
        _from("sender_name"),
        _messenger_kind,
        _messenger_text,
        ("sender_name",),
        mends=True,
    ),
    _App(
        "WhatsApp",
        lambda chat: chat.get("app") == "WhatsApp",
        _from("from"),
        whatsapp.kind,
        whatsapp.words,
        ("from",),
        aside=whatsapp.aside,
        is_in_order=True,
    ),
    _App(
        "Slack",
        lambda chat: any(map(slack.is_row, chat["messages"][:5])),
        slack.who,
        slack.kind,
        lambda message: message["text"],
        slack.USED,
        thread=slack.thread,
    ),
)
