"""A list of messages, under whatever names its fields have, to the turns of a draft.

A message is an object with a text and, mostly, with who says it. What its fields are called is
looked up once for each set of keys, so that a million messages of one form cost a million look-ups
of three keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tuning.corpus.drafts import DraftTurn
from tuning.corpus.faults import NOT_TEXT, Invalid, checked, found, holds, keys, unpacked
from tuning.corpus.flags import flags_of, is_flag_of_each, is_measured, weight_of
from tuning.corpus.message_keys import (
    FROM_ME,
    PERSON_KEYS,
    ROLE_KEYS,
    TEXT_KEYS,
    Plan,
    plan_of,
    spelled,
)
from tuning.corpus.message_parts import as_messages
from tuning.corpus.message_shapes import (
    as_rows,
    check_flat,
    check_speakers,
    speaker_key,
    unwrapped,
)
from tuning.corpus.roles import NAMES_TOO, role_of
from tuning.corpus.tool_calls import called, spells_call, tool_calls
from tuning.corpus.turn_numbers import in_turn_order
from tuning.dialogue import Role
from tuning.run.params import Branches

NUM_KNOWN: Final = 2**16
_NAMED: Final = re.compile(r"\s*((?:[^\s:.?!]+ ){0,3}[^\s:.?!]{1,30}):(?:\s+(.*)|)$", re.DOTALL)
"""A text behind a name of up to four words."""


@dataclass(frozen=True)
class Reader:
    """The settings with which messages are read, and counts of what was not used."""

    roles: Mapping[str, Role]
    """``data.roles``, in lower case."""
    unused: Counter[str] = field(default_factory=Counter)
    """Messages and records with a key that holds something and is not used, by its name."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Messages that are none of a conversation (service rows, deleted ones, media), by kind."""
    used: frozenset[str] = frozenset()
    """Keys that settings name (``data.group_by``, ``data.columns``), so that they are used."""
    branches: Branches = "all"
    """``data.branches``"""
    _known: dict[tuple[str, str], tuple[str, Role | None]] = field(default_factory=dict)
    """Speakers of plain messages that were met before under a key, with their roles."""

    def leave(
        self, entry: Mapping[str, Any], used: Container[str | None], prefix: str = ""
    ) -> None:
        """Count the keys of an object that hold something and are not used."""
        flags = () if prefix else flags_of(entry)
        for key, value in entry.items():
            is_flag = not prefix and (key in flags or is_flag_of_each(key, value))
            is_used = key in used or is_flag or (not prefix and key in self.used)
            if not is_used and holds(value):
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
        plan = plan_of(tuple(item))
        known, plain = None, None
        if plan.is_plain and plan.who is not None and type(item[plan.who]) is str:
            plain = plan.who, item[plan.who]
            known = self._known.get(plain)
            text = item[plan.texts[0]]
            if known is not None and type(text) is str and not NOT_TEXT.search(text):
                time = item[plan.time] if plan.time is not None else None
                return DraftTurn(known[0], [text], known[1], time=time)
        speaker, role = known or self._who(item, plan, where, number)
        name_too = self._name_too(item, plan, role)
        # A call is no plain text, whatever its keys say.
        is_plain = plain is not None and not name_too and not spells_call(plain[1])
        is_plain &= role is not None or plan.who is None or spelled(plan.who) != "role"
        if plain is not None and is_plain and len(self._known) < NUM_KNOWN:
            self._known[plain] = speaker, role
        calls = tool_calls(item, plan, where, self.unused)
        reasoning = _reasoning(item, plan, where)
        lines = self._text(item, plan, where, may_lack=bool(calls or reasoning))
        if role == "assistant" and not calls and plan.who and spells_call(item[plan.who]):
            calls = called("\n".join(lines), where, self.unused)
            lines = [] if calls else lines
        flags = [key for key in plan.flags if not is_measured(key, item[key])]
        if plan.unused or len(flags) < len(plan.flags):
            used = {*item} - {*plan.unused, *plan.flags} | {*flags, speaker_key(item)}
            self.leave(item, used, "message.")
        return DraftTurn(
            speaker,
            lines,
            role=role,
            reasoning=reasoning,
            tool_calls=calls,
            tool_call_id=_call_id(item, plan, where),
            weight=weight_of(item, flags, where),
            time=item[plan.time] if plan.time else None,
            spelled=name_too,
        )

    def turns(self, items: Any, what: str) -> list[DraftTurn]:
        """Read a list of messages, of texts, of blocks of messages, or a dict of such lists.

        Raises:
            Invalid: something in it is no message, or only some of them say who speaks.
        """
        items = [unwrapped(item) for item in as_rows(unpacked(items), what)]
        if items and all(isinstance(item, str) for item in items):
            return self._named_texts(items, what) or alternating(items, what)
        items = as_messages(in_turn_order(items, what), self.passed_over)
        check_flat(items, what)
        shapes = {tuple(item) if isinstance(item, dict) else None for item in items}
        if len(shapes) == 1 and None not in shapes and "is_system" not in items[0]:
            turns = [self.turn(item, f"{what} {n + 1}", n) for n, item in enumerate(items)]
        else:
            turns = self._mixed(items, what)
        _mend_people(turns)
        _mend_roles(turns)
        return turns

    def _mixed(self, items: list[Any], what: str) -> list[DraftTurn]:
        """Read messages with several sets of keys, blocks of messages, or pairs of two texts."""
        turns: list[DraftTurn] = []
        firsts = [item[0] for item in items if _is_pair(item)]
        tells = len({*firsts}) < len(firsts) or any(role_of(one, self.roles) for one in firsts)
        for number, item in enumerate(items):
            where = f"{what} {number + 1}"
            if isinstance(item, list) and item and isinstance(item[0], dict):
                turns += _block([self.turn(one, where, number) for one in item])
            elif _is_pair(item):
                turns.append(self._pair_of(item, where, tells))
            elif isinstance(item, dict) and item.get("is_system") is True:
                self.passed_over["SillyTavern: hidden messages"] += 1
            elif item != []:
                turns.append(self.turn(item, where, number))
        check_speakers(items, what)
        return turns

    def _named_texts(self, texts: list[str], what: str) -> list[DraftTurn]:
        """Read texts such as ``Ann: hi``; none if one is not so, or if nothing tells it is a name.

        Names stand there several times, or are all roles.
        """
        said = list(map(_NAMED.match, texts))
        names = [named[1] for named in said if named]
        num_names = len({*names})
        if len(names) < len(texts) or num_names < 2:
            return []
        if num_names == len(names) and not all(role_of(name, self.roles) for name in names):
            return []
        items = [{"speaker": named[1], "text": named[2] or ""} for named in said if named]
        return self.turns(items, what)

    def _pair_of(self, item: list[Any], where: str, tells: bool) -> DraftTurn:
        """A speaker and a text, not two texts of an exchange, which look alike.

        Args:
            item: Both.
            where: Names them in faults.
            tells: Whether some first ones of all pairs are roles, or stand there twice.
        """
        speaker, text = item
        role = role_of(speaker, self.roles)
        if not tells:
            raise Invalid(
                "wrong_layout",
                f"{where}: {found(item)}; wanted a speaker and a text, of which nothing tells "
                "that the first is a speaker: none is a role, or stands there twice",
            )
        return DraftTurn(role or _name(speaker, where), _lines(text, where), role=role)

    def _text(
        self, item: Mapping[str, Any], plan: Plan, where: str, *, may_lack: bool
    ) -> list[str]:
        """The first text that holds something, as lines; what others say besides is counted."""
        if not plan.texts:
            if may_lack:
                return []
            wanted = " or ".join(map(repr, TEXT_KEYS[:5]))
            raise Invalid("no_text", f"{where}: wanted {wanted}, found {keys(item)}")
        key = next((key for key in plan.texts if holds(item[key])), plan.texts[0])
        lines = _lines(item[key], f"{where}: {key!r}", may_lack=may_lack)
        for other in plan.texts:
            if other != key and holds(item[other]) and item[other] != "\n".join(lines):
                self.unused[f"message.{other}"] += 1
        return lines

    def _who(
        self, item: Mapping[str, Any], plan: Plan, where: str, number: int
    ) -> tuple[str, Role | None]:
        """The speaker's name, and the role if the message says one."""
        if isinstance(item.get("is_user"), bool):  # SillyTavern
            role: Role | None = "user" if item["is_user"] else "assistant"
            return str(role), role
        if plan.who is None:
            key = speaker_key(item)
            if key is not None and spelled(key) in FROM_ME:
                return ("me" if item[key] in (True, 1, "1", "true") else "other"), None
            if key:  # LangChain
                role = role_of(item["type"], self.roles)
                return role or item["type"], role
            return "AB"[number % 2], None
        who = item[plan.who]
        if isinstance(who, dict):  # an author with a name, or with a role
            named = next((who[k] for k in ("role", "nickname", "name", "id") if who.get(k)), None)
            name = _name(named, f"{where}: {plan.who!r}")
            own = self.roles.get(name.casefold())
            if who.get("role") and (role := role_of(name, self.roles)):
                return role, role
            return own or name, own  # a bot among people is one of them
        name = _name(who, f"{where}: {plan.who!r}")
        if spelled(plan.who) in PERSON_KEYS:
            role = self.roles.get(name.casefold())
        else:
            role = role_of(name, self.roles)
        own = item[plan.name] if plan.name is not None else None
        if role in (None, "user") and str(own or "").strip():  # a tool's name is a function's
            own_name = _name(own, f"{where}: {plan.name!r}")
            if role is None or role_of(own_name, self.roles) != role:
                return own_name, role
        elif role in ("assistant", "system") and str(own or "").strip():
            self.unused["message.name"] += 1
        if role is None and spelled(plan.who) == "role":
            self.unused[f"role {name!r}, no known one (data.roles)"[:80]] += 1
        return role or name, role

    def _name_too(self, item: Mapping[str, Any], plan: Plan, role: Role | None) -> str:
        """A speaker's name that also spells a role, where the key is that of a speaker."""
        if role is None or plan.who is None or spelled(plan.who) in ROLE_KEYS:
            return ""
        name = item[plan.who]
        folded = name.strip().casefold() if isinstance(name, str) else ""
        return name.strip() if folded in NAMES_TOO and folded not in self.roles else ""


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)


def _mend_people(turns: Sequence[DraftTurn]) -> None:
    """Beside a person, a speaker called Model or Developer is one, too."""
    spelled = [turn for turn in turns if turn.spelled]
    if spelled and any(turn.role is None for turn in turns):
        for turn in spelled:
            turn.speaker, turn.role = turn.spelled, None


def _mend_roles(turns: Sequence[DraftTurn]) -> None:
    """Where ``system`` answers ``user``, it is the assistant (Schema-Guided Dialogue, MultiWOZ)."""
    roles = [turn.role for turn in turns]
    if "assistant" in roles or "system" not in roles or "user" not in roles:
        return
    if "system" in roles[roles.index("user") :]:
        for turn in turns:
            if turn.role == "system":
                turn.role, turn.speaker = "assistant", "assistant"


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


def _block(turns: list[DraftTurn]) -> list[DraftTurn]:
    """Messages that one speaker wrote in a row are one turn, unless they differ in more."""
    joined: list[DraftTurn] = []
    for turn in turns:
        if joined and turn.beside_words() == joined[-1].beside_words():
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
        is_untyped = isinstance(part, dict) and named is None and "text" in part  # Gemini's
        if not is_untyped and named not in ("text", "input_text", "output_text"):
            raise Invalid("not_text", f"{where}: wanted parts of type 'text', {found(named)}")
        if isinstance(part, dict) and (flags := flags_of(part)):
            raise Invalid(
                "weight",
                f"{where}: {flags[0]!r} of a part of its content; wanted it beside the content: a "
                "message is trained whole",
            )
        text = part.get("text", part.get("value"))  # LLaMA-Factory's
        if isinstance(text, dict):  # OpenAI's assistants
            text = text.get("value")
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
    return checked(value.strip(), where)


def _call_id(item: Mapping[str, Any], plan: Plan, where: str) -> str:
    value = None if plan.call_id is None else item[plan.call_id]
    return checked(str(value), f"{where}: 'tool_call_id'") if isinstance(value, str | int) else ""


def _reasoning(item: Mapping[str, Any], plan: Plan, where: str) -> str:
    if plan.reasoning is None or not holds(item[plan.reasoning]):
        return ""
    return "\n".join(_lines(item[plan.reasoning], f"{where}: {plan.reasoning!r}")).strip()
