"""A list of messages, under whatever names its fields have, to the turns of a draft.

A message is an object with a text and, mostly, with who says it. What its fields are called is
looked up once for each set of keys, so that a million messages of one form cost a million look-ups
of three keys.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from tuning.corpus.faults import NOT_TEXT, Invalid, checked, found, keys
from tuning.corpus.roles import CALLS, role_of
from tuning.dialogue import Role, ToolCall

TEXT_KEYS: Final = ("content", "value", "text", "utterance", "message", "mes", "body", "msg")
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
)
ROLE_KEYS: Final = ("role", "from", "sender", "speaker", "author", "user")
NAME_KEYS: Final = ("name", "speaker")
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
)
MASKS: Final = frozenset({"mask", "masked"})
"""Flags that are true where a message is not trained."""
SYSTEM_KEYS: Final = ("system", "system_prompt", "system_message")
"""Names of a system text beside a list of messages or a pair."""
TOOLS_KEYS: Final = ("tools", "functions", "available_tools")
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
TIME_KEYS: Final = ("timestamp", "timestamp_ms", "date", "create_time", "created_at", "send_date")


NUM_KNOWN: Final = 2**16


@dataclass(slots=True)
class DraftTurn:
    """A turn before white space is stripped and its lines are joined."""

    speaker: str
    lines: list[str]
    role: Role | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    weight: float = 1.0
    time: Any = None
    """As the message has it; ``time_of`` reads it."""


@dataclass(slots=True)
class Draft:
    """A dialogue as a layout reads it."""

    turns: list[DraftTurn]
    tools: str = ""
    dialogue_id: str | None = None
    is_log: bool = False
    """A chat that goes on and on: cut into sessions."""
    tree: str = ""
    """Names the tree that this is a branch of, if it is: all its branches stay on one side."""


@dataclass(frozen=True)
class Reader:
    """The settings with which messages are read, and counts of what was not used."""

    roles: Mapping[str, Role]
    """``data.roles``, in lower case."""
    unused: Counter[str] = field(default_factory=Counter)
    """Messages and records with a key that holds something and is not used, by its name."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Messages that are none of a conversation (service rows, deleted ones, media), by kind."""
    _known: dict[str, tuple[str, Role | None]] = field(default_factory=dict)
    """Speakers of plain messages that were met before, with their roles."""

    def leave(self, entry: Mapping[str, Any], used: Sequence[str], prefix: str = "") -> None:
        """Count the keys of an object that hold something and are not used."""
        for key, value in entry.items():
            if key not in used and key not in FLAG_KEYS and value not in (None, "", [], {}):
                self.unused[f"{prefix}{key}"[:80]] += 1

    def turn(self, item: Any, where: str, number: int) -> DraftTurn:
        """Read one message.

        Args:
            item: The message.
            where: Names it in faults.
            number: Its place in its list, from 0: it stands in for a speaker that is not named.

        Raises:
            Invalid: it is no message, or its text or flags are none.
        """
        if not isinstance(item, dict):
            raise Invalid("wrong_layout", f"{where}: wanted an object, {found(item)}")
        plan = _plan(tuple(item))
        if plan.is_plain:
            text, who = item[plan.text], item[plan.who]
            known = self._known.get(who) if type(who) is str else None
            if known is not None and type(text) is str and not NOT_TEXT.search(text):
                time = item[plan.time] if plan.time is not None else None
                return DraftTurn(known[0], [text], known[1], time=time)
        speaker, role = self._who(item, plan, where, number)
        if plan.is_plain and type(item[plan.who]) is str and len(self._known) < NUM_KNOWN:
            self._known[item[plan.who]] = speaker, role
        calls = _tool_calls(item, where)
        lines: list[str] = []
        if plan.text is None:
            if not calls:
                wanted = " or ".join(map(repr, TEXT_KEYS[:5]))
                raise Invalid("no_text", f"{where}: wanted {wanted}, found {keys(item)}")
        else:
            lines = _lines(item[plan.text], f"{where}: {plan.text!r}", may_lack=bool(calls))
        if role == "assistant" and not calls and plan.who and _spells_call(item[plan.who]):
            calls, lines = _called(lines, where)
        for key in plan.unused:
            if item[key] not in (None, "", [], {}):
                self.unused[f"message.{key}"[:80]] += 1
        return DraftTurn(
            speaker,
            lines,
            role=role,
            reasoning=_reasoning(item, plan, where),
            tool_calls=calls,
            tool_call_id=_optional(item, "tool_call_id"),
            weight=weight_of(item, plan.flags, where),
            time=item[plan.time] if plan.time else None,
        )

    def turns(self, items: Any, what: str) -> list[DraftTurn]:
        """Read a list of messages, of texts, of blocks of messages, or a dict of such lists.

        Raises:
            Invalid: something in it is no message.
        """
        items = _rows(_unpacked(items), what)
        if items and all(isinstance(item, str) for item in items):
            return alternating(items, what)
        turns: list[DraftTurn] = []
        for number, item in enumerate(items):
            where = f"{what} {number + 1}"
            if isinstance(item, list) and item and isinstance(item[0], dict):
                turns += _block([self.turn(one, where, number) for one in item])
            elif isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
                turns += self._pair_of(item, where)
            else:
                turns.append(self.turn(item, where, number))
        return turns

    def _pair_of(self, item: list[Any], where: str) -> list[DraftTurn]:
        speaker, text = item
        role = role_of(speaker, self.roles)
        lines = _lines(text, where)
        return [DraftTurn(role or checked(speaker, where), lines, role=role)]

    def _who(
        self, item: Mapping[str, Any], plan: _Plan, where: str, number: int
    ) -> tuple[str, Role | None]:
        """The speaker's name, and the role if the message says one."""
        if "is_user" in item and isinstance(item["is_user"], bool):  # SillyTavern
            role: Role | None = "user" if item["is_user"] else "assistant"
            return str(role), role
        if plan.who is None:
            return "AB"[number % 2], None
        who = item[plan.who]
        if isinstance(who, dict):  # an author with a name, or with a role
            bot = who.get("isBot") or who.get("is_bot")
            named = next((who[k] for k in ("role", "nickname", "name", "id") if who.get(k)), None)
            name = _name(named, f"{where}: {plan.who!r}")
            if who.get("role") and (role := role_of(name, self.roles)):
                return role, role
            return name, "assistant" if bot else None
        name = _name(who, f"{where}: {plan.who!r}")
        role = role_of(name, self.roles)
        if plan.role is not None:
            role = role_of(_name(item[plan.role], f"{where}: {plan.role!r}"), self.roles) or role
        own = item[plan.name] if plan.name is not None else None
        if role in (None, "user") and isinstance(own, str) and own.strip():
            return checked(own, f"{where}: {plan.name!r}"), role
        return role or name, role


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which keys of a message hold what."""

    text: str | None
    who: str | None
    role: str | None
    name: str | None
    flags: tuple[str, ...]
    reasoning: str | None
    time: str | None
    unused: tuple[str, ...]
    is_plain: bool
    """Whether it holds a text and who says it, and nothing more that is used."""


@lru_cache(4096)
def _plan(names: tuple[str, ...]) -> _Plan:
    spelled = {name.strip().casefold(): name for name in reversed(names)}

    def first(wanted: Sequence[str]) -> str | None:
        return next((spelled[key] for key in wanted if key in spelled), None)

    who = first(WHO_KEYS)
    role = "role" if "role" in names and who != "role" else None
    text = first([key for key in TEXT_KEYS if spelled.get(key) != who])
    name = first([key for key in NAME_KEYS if spelled.get(key) not in (None, who, text)])
    name = name if who is not None else None
    flags = tuple(spelled[key] for key in FLAG_KEYS if key in spelled)
    reasoning, time = first(REASONING_KEYS), first(TIME_KEYS)
    extra = ("tool_calls", "function_call", "tool_call_id", "is_user")
    calls = tuple(spelled[key] for key in extra if key in spelled)
    used = {who, text, name, role, reasoning, time, *flags, *calls}
    unused = tuple(key for key in names if key not in used and key not in CONVERSATION_KEYS)
    more = (name, role, reasoning, *flags, *calls, *unused)
    return _Plan(
        text,
        who,
        role,
        name,
        flags,
        reasoning,
        time,
        unused,
        text is not None and who is not None and not any(more),
    )


def system_of(entry: Mapping[str, Any], turns: Sequence[DraftTurn] = ()) -> list[DraftTurn]:
    """Return the turn of a system text that stands beside the messages.

    Raises:
        Invalid: the messages begin with another one.
    """
    text = next((entry[key] for key in SYSTEM_KEYS if isinstance(entry.get(key), str)), "")
    if not text.strip():
        return []
    if turns and turns[0].role == "system":
        if "".join(turns[0].lines).strip() == text.strip():
            return []
        raise Invalid("wrong_layout", "a system text beside the messages and another one in them")
    return [DraftTurn("system", [checked(text, "'system'")], role="system")]


def tools_of(entry: Mapping[str, Any]) -> str:
    """Return the functions that may be called, as JSON text; nothing where there are none."""
    value = next((entry[key] for key in TOOLS_KEYS if entry.get(key)), "")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "" if text.strip() in ("", "[]", "null") else checked(text, "'tools'")


def alternating(texts: Sequence[Any], what: str) -> list[DraftTurn]:
    """Read texts of two speakers, A and B, in turn."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            reason = "no_text" if text is None else "not_text"
            raise Invalid(reason, f"{what} {number}: wanted text, {found(text)}")
    return [
        DraftTurn("AB"[number % 2], [checked(text, f"{what} {number + 1}")])
        for number, text in enumerate(texts)
    ]


def is_message(item: Any) -> bool:
    """Tell whether a value looks like a message: an object with a text, or a call, under a name."""
    if not isinstance(item, dict):
        return False
    plan = _plan(tuple(item))
    has_text = plan.text is not None and isinstance(item[plan.text], str | list | None)
    return (has_text and _looks_said(item[plan.text])) or "tool_calls" in item


def is_spoken(item: Any) -> bool:
    """Tell whether a value is a message that says who speaks."""
    if not is_message(item):
        return False
    return _plan(tuple(item)).who is not None or "is_user" in item


def _looks_said(value: Any) -> bool:
    """Text, or parts of a text; not a list of further messages."""
    return not isinstance(value, list) or not any(
        isinstance(part, dict) and "type" not in part and _plan(tuple(part)).who for part in value
    )


def time_of(value: Any) -> float | None:
    """Return seconds since 1970 of a number of seconds or milliseconds, or of an ISO date."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) / (1000 if value > 1e11 else 1)
    try:
        moment = datetime.fromisoformat(str(value).strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _unpacked(items: Any) -> Any:
    """A list that stands there as JSON text is decoded."""
    if isinstance(items, str) and items.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(items)
        except (ValueError, RecursionError):
            return items
    return items


def _rows(items: Any, what: str) -> list[Any]:
    """A dict of equally long lists, as Parquet's readers give them, is a list of objects."""
    if isinstance(items, dict) and items and all(isinstance(v, list) for v in items.values()):
        lengths = {len(column) for column in items.values()}
        if len(lengths) == 1:
            return [dict(zip(items, row, strict=True)) for row in zip(*items.values(), strict=True)]
        raise Invalid(
            "wrong_layout", f"{what!r}: wanted lists of one length, found {sorted(lengths)}"
        )
    if not isinstance(items, list):
        raise Invalid("wrong_layout", f"{what!r}: wanted a list, {found(items)}")
    return items


def _block(turns: list[DraftTurn]) -> list[DraftTurn]:
    """Messages that one speaker wrote in a row are one turn."""
    joined: list[DraftTurn] = []
    for turn in turns:
        if joined and joined[-1].speaker == turn.speaker:
            joined[-1].lines += turn.lines
        else:
            joined.append(turn)
    return joined


def _lines(value: Any, where: str, *, may_lack: bool = False) -> list[str]:
    """Content is text, or a list of parts that are text or of type text, each a line."""
    if isinstance(value, str):
        return [checked(value, where)]
    if value is None:
        if may_lack:
            return []
        raise Invalid("no_text", f"{where}: wanted text, found nothing")
    if isinstance(value, dict) and isinstance(value.get("parts"), list):  # ChatGPT's export
        value = value["parts"]
    if not isinstance(value, list):
        raise Invalid("not_text", f"{where}: wanted text, {found(value)}")
    lines = []
    for part in value:
        if isinstance(part, str):
            lines.append(checked(part, where))
            continue
        named = part.get("type") if isinstance(part, dict) else part
        if named not in ("text", "input_text", "output_text"):
            raise Invalid("not_text", f"{where}: wanted parts of type 'text', {found(named)}")
        text = part.get("text")
        if not isinstance(text, str):
            raise Invalid("not_text", f"{where}: wanted text, {found(text)}")
        lines.append(checked(text, where))
    return lines


def _name(value: Any, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise Invalid("missing_speaker", f"{where}: wanted a name, found nothing")
    if not isinstance(value, str):
        raise Invalid("not_text", f"{where}: wanted text, {found(value)}")
    if not value.strip():
        raise Invalid("missing_speaker", f"{where}: wanted a name, {found(value)}")
    return checked(value, where)


def _optional(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    return checked(str(value), repr(key)) if isinstance(value, str | int) else ""


def _reasoning(item: Mapping[str, Any], plan: _Plan, where: str) -> str:
    if plan.reasoning is None or item[plan.reasoning] is None:
        return ""
    return "\n".join(_lines(item[plan.reasoning], f"{where}: {plan.reasoning!r}")).strip()


def weight_of(item: Mapping[str, Any], flags: Sequence[str], where: str) -> float:
    """Return 0 or 1: whether a message or record is trained, by all flags that it has.

    Raises:
        Invalid: a flag says anything else.
    """
    weight = 1.0
    for key in flags:
        value = item[key]
        if value is None:
            continue
        if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
            value = value.strip().casefold() == "true"
        if value not in (0, 1) or not isinstance(value, bool | int | float):
            raise Invalid(
                "weight", f"{where}: {key!r}: wanted 0 or 1 (trained or not), {found(value)}"
            )
        is_trained = bool(value) != (key.strip().casefold() in MASKS)
        weight = min(weight, float(is_trained))
    return weight


def _tool_calls(item: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    """OpenAI's ``tool_calls``, or its older ``function_call``."""
    calls = item.get("tool_calls")
    if calls is None and isinstance(item.get("function_call"), dict):
        calls = [item["function_call"]]
    if calls is None:
        return ()
    calls = _unpacked(calls)
    if not isinstance(calls, list):
        raise Invalid("not_text", f"{where}: 'tool_calls': wanted a list, {found(calls)}")
    return tuple(_call(call, where) for call in calls)


def _call(call: Any, where: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Invalid("not_text", f"{where}: wanted a call with a 'name', {found(call)}")
    arguments = function.get("arguments", function.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(
        checked(function["name"], where), checked(arguments, where), _optional(call, "id")
    )


def _spells_call(who: Any) -> bool:
    return isinstance(who, str) and who.strip().casefold() in CALLS


def _called(lines: list[str], where: str) -> tuple[tuple[ToolCall, ...], list[str]]:
    """A text that is a call, or several, as JSON; another text stays the turn's words."""
    value = _unpacked("\n".join(lines))
    calls = value if isinstance(value, list) else [value]
    if all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return tuple(_call(call, where) for call in calls), []
    return (), lines
