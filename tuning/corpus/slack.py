"""Slack's exports: a folder for each channel with a list of messages per day, and the users' names.

A channel is one log; a thread in it, its first message and the replies, is a dialogue by itself.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tuning.corpus.faults import Invalid, decoded
from tuning.reading.folders import Found
from tuning.run.errors import UserError

USERS: Final = "users.json"
_ABOUT: Final = frozenset(
    {
        USERS,
        *(f"{name}.json" for name in ("channels", "groups", "dms", "mpims", "integration_logs")),
        *(f"{name}.json" for name in ("canvases", "lists", "file_conversations")),
        "huddle_transcripts.json",
    }
)
"""Files beside the channels' folders."""
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d\.json")
_TIME: Final = re.compile(r"\d{9,11}\.\d{6}")
_SPOKEN: Final = (None, "bot_message", "thread_broadcast", "me_message", "file_share")
"""Subtypes of messages that somebody wrote."""
USED: Final = (
    *("user", "username", "bot_id", "bot_profile", "user_profile", "subtype"),
    *("thread_ts", "parent_user_id", "reply_count", "reply_users_count", "reply_users"),
    *("replies", "latest_reply"),
)
"""Keys of a message that say who wrote it, what it is, and of which thread."""
_REFERENCE: Final = re.compile(r"<([@#!]?)([^<>|\s][^<>|\n]*)(?:\|([^<>\n]*))?>")
"""``<@U123>``, ``<#C123|general>``, ``<!here>``, ``<https://example.org|a link>``."""


def is_row(row: Any) -> bool:
    """Tell whether a value is a message of an export."""
    return (
        isinstance(row, dict)
        and row.get("type") == "message"
        and isinstance(row.get("ts"), str)
        and _TIME.fullmatch(row["ts"]) is not None
    )


def with_channels(found: Found) -> Found:
    """Put each channel's folder in the place of its days, if files are an export's."""
    days: dict[Path, list[Path]] = {}
    for file in found.files:
        if _DAY.fullmatch(file.name):
            days.setdefault(file.parent, []).append(file)
    channels = {folder for folder, files in days.items() if _holds_rows(files)}
    if not channels:
        return found
    roots = {folder.parent for folder in channels}
    about = [f for f in found.files if f.name in _ABOUT and f.parent in roots]
    rest = [
        file
        for file in found.files
        if file not in about and not (file.parent in channels and _DAY.fullmatch(file.name))
    ]
    names = [file.name for file in about if file.name != USERS]
    return Found(sorted([*rest, *channels]), sorted([*found.passed_over, *names]))


def _holds_rows(days: Sequence[Path]) -> bool:
    """Tell by the first day with a message whether it is Slack's."""
    for day in days:
        try:
            rows = decoded(day.read_bytes())
        except Invalid:
            return False
        if rows:
            return isinstance(rows, list) and is_row(rows[0])
    return False


def days_of(channel: Path) -> list[Path]:
    """Return the files of a channel, the oldest first."""
    return sorted(file for file in channel.iterdir() if _DAY.fullmatch(file.name))


def users_of(channel: Path) -> dict[str, str]:
    """Return the names that ``users.json`` beside a channel's folder gives to ids.

    Raises:
        UserError: the file holds something else.
    """
    file = channel.parent / USERS
    if not file.is_file():
        return {}
    try:
        users = decoded(file.read_bytes())
        known = {
            user["id"]: (_name_of(user), str(user.get("name") or user["id"])) for user in users
        }
    except (Invalid, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file}: wanted Slack's list of users, each with an 'id' ({error!r}). Export it "
            "again, or take the file away: ids then stand for names."
        ) from None
    common = Counter(name for name, _ in known.values())
    return {
        user: name if common[name] == 1 else f"{name} ({handle})"
        for user, (name, handle) in known.items()
    }


def _name_of(user: Mapping[str, Any]) -> str:
    profile = user.get("profile") or user
    names = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"))
    return next((str(n).strip() for n in (*names, user.get("name"), user.get("id")) if n), "")


def named(rows: Sequence[Any], users: Mapping[str, str]) -> str:
    """Return messages as JSON, with names in the place of ids; a message may tell one, too."""
    names = {
        row["user"]: _name_of(row["user_profile"])
        for row in rows
        if isinstance(row.get("user"), str) and isinstance(row.get("user_profile"), dict)
    }
    names = {user: name for user, name in names.items() if name} | dict(users)
    return json.dumps([_named(row, names) for row in rows], ensure_ascii=False)


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    own = dict(row)
    if isinstance(row.get("user"), str):
        own["user"] = names.get(row["user"], row["user"])
    if isinstance(row.get("text"), str):
        own["text"] = plain(row["text"], names)
    return own


def plain(text: str, names: Mapping[str, str]) -> str:
    """Return a text as it is shown: names for mentions, links without brackets."""

    def shown(reference: re.Match[str]) -> str:
        sign, target, label = reference.groups()
        if sign == "@":
            return f"@{names.get(target) or label or target}"
        if sign:
            return f"{'#' if sign == '#' else '@'}{(label or target).lstrip('@#')}"
        address = target.removeprefix("mailto:")
        return f"{label} ({address})" if label and label not in address else label or address

    return html.unescape(_REFERENCE.sub(shown, text))


def who(message: Mapping[str, Any]) -> Any:
    """Return who wrote a message; a bot is told by its name."""
    if message.get("bot_id") or message.get("subtype") == "bot_message":
        profile = message.get("bot_profile")
        named_by = profile.get("name") if isinstance(profile, dict) else None
        return {"name": message.get("username") or named_by or "bot", "isBot": True}
    return message.get("user") or message.get("username")


def kind(message: Mapping[str, Any]) -> str | None:
    """Name what a message is, if it is none of the conversation."""
    subtype = message.get("subtype")
    if message.get("type") != "message":
        return f"{message.get('type', 'unknown')} rows"
    if subtype == "tombstone":
        return "deleted messages"
    if subtype not in _SPOKEN:
        return f"{subtype} messages"
    if str(message.get("text") or "").strip():
        return None
    return "media" if message.get("files") else "messages without text"


def thread(message: Mapping[str, Any]) -> str:
    """Name the thread that a message is of; empty for one of the channel alone."""
    first = message.get("thread_ts")
    replied = message.get("reply_count") != 0
    return str(first) if first and replied else ""
