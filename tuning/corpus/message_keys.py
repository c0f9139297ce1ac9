"""Names that lists of messages and their fields have, and which of a message's keys is which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

LIST_KEYS: Final = (
    "messages",
    "conversations",
    "conversation",
    "turns",
    "dialogue",
    "dialog",
    "utterances",
    "thread",
    "chat_messages",
    "contents",
    "chat",
    "log",
    "content",
)
"""Usual names of a list of messages; else it is the one list of messages under any name."""
TEXT_KEYS: Final = (
    "content",
    "value",
    "text",
    "utterance",
    "message",
    "mes",
    "body",
    "msg",
    "parts",
)
WHO_KEYS: Final = (
    "role",
    "from",
    "speaker",
    "sender",
    "sender_name",
    "author",
    "user",
    "agent",
    "speaker_id",
    "participant",
    "who",
    "name",
    "speaker_idx",
    "speaker_index",
    "author_id",
    "sender_id",
    "direction",
)
FROM_ME: Final = ("is_from_me", "from_me")
"""Flags of messages that the owner of an export wrote, where no name tells who did."""
ROLE_KEYS: Final = frozenset({"role", "from"})
"""Of these, the ones that say a role rather than a name."""
PERSON_KEYS: Final = frozenset({"sender_name", "participant", "name"})
"""Of these, the ones that name people: a person may be called Model or User."""
NAME_KEYS: Final = ("name", "speaker", "sender", "sender_name", "author", "participant")
"""A speaker's own name beside the role."""
FLAG_KEYS: Final = (
    "weight",
    "train",
    "loss",
    "trainable",
    "training",
    "train_on",
    "calculate_loss",
    "mask",
    "masked",
    "loss_mask",
    "loss_weight",
    "weights",
    "compute_loss",
    "train_mask",
    "use_for_training",
    "include_in_training",
    "ignore",
    "skip",
    "hidden",
)
MASKS: Final = frozenset({"mask", "masked", "ignore", "skip", "hidden"})
"""Flags that are true where a message is not trained; it stays the context of others."""
WEIGHTS: Final = frozenset({"weight", "weights", "loss_weight"})
"""Flags that may be any share of the loss."""
METRICS: Final = frozenset({"loss"})
"""Flags that are as often a figure: a number that is neither 0 nor 1 is none."""
TURN_KEYS: Final = (
    *(f"turn_{what}" for what in ("idx", "index", "id", "number", "num", "no")),
    *(f"message_{what}" for what in ("idx", "index", "number", "num", "no")),
    *(f"utterance_{what}" for what in ("idx", "index", "number")),
    *("msg_idx", "msg_index", "turn", "sequence_number", "seq"),
)
"""Where a message stands in its conversation."""
REASONING_KEYS: Final = ("reasoning_content", "reasoning", "thinking", "thought")
CONVERSATION_KEYS: Final = (
    "conversation_id",
    "c_id",
    "conv_id",
    "dialogue_id",
    "dialog_id",
    "thread_id",
    "thread_ts",
    "session_id",
    "chat_id",
    "ticket_id",
    "conversation",
)
"""Names of a conversation where each message is a row."""
CHANNEL_KEYS: Final = ("channel", "channel_id", "channel_name", "room", "room_id")
"""Names of a place where people go on and on, where each message is a row."""
SILLY_TAVERN: Final = ("is_user", "is_system")
"""Its flags: who speaks, and whether a message is hidden."""
TIME_KEYS: Final = (
    "timestamp",
    "timestamp_ms",
    "ts",
    "date",
    "datetime",
    "time",
    "create_time",
    "created_at",
    "send_date",
    "sent_at",
)


def spellings(keys: Iterable[str]) -> dict[str, str]:
    """Return an object's keys by their usual spelling; of two that are spelled alike, the first."""
    return {spelled(key): key for key in reversed(list(keys))}


@lru_cache(2**14)
def spelled(key: str) -> str:
    """Return a key as most data spells it: ``sender_name`` of ``senderName`` or ``Sender_Name``."""
    return _CAMEL.sub("_", key.strip()).casefold()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which keys of a message hold what."""

    texts: tuple[str, ...]
    """Mostly one; of several, the first that holds something is the text."""
    who: str | None
    name: str | None
    flags: tuple[str, ...]
    reasoning: str | None
    time: str | None
    calls: tuple[str, ...]
    """OpenAI's ``tool_calls``, and its older ``function_call``."""
    call_id: str | None
    turn: str | None
    """Where it stands in its conversation."""
    unused: tuple[str, ...]
    is_plain: bool
    """Whether it holds one text and who says it, and nothing more that is used."""


@lru_cache(4096)
def plan_of(names: tuple[str, ...]) -> Plan:
    """Return what an object's keys hold, in any case; of two spellings, the first counts."""
    keys = spellings(names)

    def first(wanted: Sequence[str]) -> str | None:
        return next((keys[key] for key in wanted if key in keys), None)

    who = first(WHO_KEYS)
    texts = tuple(keys[key] for key in TEXT_KEYS if keys.get(key) not in (None, who))
    name = first([key for key in NAME_KEYS if keys.get(key) != who]) if who else None
    flags = tuple(keys[key] for key in FLAG_KEYS if key in keys)
    reasoning, time = first(REASONING_KEYS), first(TIME_KEYS)
    calls = tuple(keys[key] for key in ("tool_calls", "function_call") if key in keys)
    call_id, turn = first(["tool_call_id"]), first(TURN_KEYS)
    used = {turn, who, name, reasoning, time, call_id, *texts, *flags, *calls, *SILLY_TAVERN}
    used |= {keys[key] for key in CONVERSATION_KEYS if key in keys}
    unused = tuple(key for key in names if key not in used)
    more = (
        name,
        reasoning,
        call_id,
        *flags,
        *calls,
        *unused,
        *set(SILLY_TAVERN).intersection(names),
    )
    is_plain = len(texts) == 1 and who is not None and not any(more)
    return Plan(texts, who, name, flags, reasoning, time, calls, call_id, turn, unused, is_plain)
