r"""A template's text of an assistant's calls of tools, and how it is read back.

    <tool_call>\n{"name": …, "arguments": …}\n</tool_call>      Hermes, Qwen
    [TOOL_CALLS] [{"name": …, "arguments": …}, …]               Mistral
    [CALL]name {…}[CALL]name {…}                                the name outside of the JSON

No family is known here by name: the template writes two calls that are known, and what stands
around their names and arguments is its form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tuning.dialogue import ToolCall, Turn

Call = tuple[str, dict[str, Any]]
"""A function's name and its arguments, by their names."""

PROBES: Final = tuple(
    ToolCall(
        f"xNAMEx{one}", f'{{"text": "a \\"b\\" <{one}>\\n", "list": [1.5, true, null, {{}}]}}', i
    )
    for one, i in (("one", "callIDone"), ("two", "callIDtwo"))
)
"""Calls that are known: to be found in a text, with what a form might not give back."""

_TEXT: Final = r"\A(?s:.*?)"
"""A turn's text before its calls, which begin at the first mark: behind it there is no text."""
_ID: Final = re.compile("|".join(call.call_id for call in PROBES))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse)


@dataclass(frozen=True, slots=True)
class CallText:
    """A form of calls. White space is free wherever the form has some."""

    first: re.Pattern[str]
    """All that stands before the first call, the turn's text included."""
    next: re.Pattern[str] | None
    """What stands between two calls; None where a turn has one call."""
    last: re.Pattern[str]
    """What stands behind the last call, up to the end of the turn."""
    keys: tuple[str, str] | None
    """The keys of name and arguments in a call's JSON object; None where the name is not in it."""
    named: re.Pattern[str] | None
    """The name, in a group, and what is between it and the arguments, where ``keys`` is None."""

    def read(self, text: str) -> list[Call]:
        """Return the calls that end a turn's text, in order; none if it ends in no whole call."""
        for start in self.first.finditer(text):
            if calls := self._calls_from(text, start.end()):
                return calls
        return []

    def _calls_from(self, text: str, place: int) -> list[Call]:
        calls: list[Call] = []
        while found := self._call_at(text, place):
            call, place = found
            calls.append(call)
            if self.last.fullmatch(text, place):
                return calls
            follows = self.next.match(text, place) if self.next else None
            if follows is None:
                return []
            place = follows.end()
        return []

    def _call_at(self, text: str, place: int) -> tuple[Call, int] | None:
        """Return the call that begins at a place, and where it ends."""
        name: object = None
        if self.named is not None:
            found = self.named.match(text, place)
            if found is None:
                return None
            name, place = found[1], found.end()
        value, end = _json_at(text, place)
        if self.keys is not None and isinstance(value, dict):
            name, value = (value.get(key) for key in self.keys)
        if isinstance(name, str) and isinstance(value, dict):
            return (name, value), end
        return None


def find_form(texts: Sequence[str]) -> CallText | None:
    """Find the form in what a template writes of the first probe, and of both if it takes two.

    None if reading the texts does not give the probes back: arguments that are no JSON, a name that
    is written otherwise.
    """
    if not texts:
        return None
    one = _find(texts[0], PROBES[0])
    if one is None:
        return None
    follows = None
    if len(texts) > 1:
        both = [_find(texts[1], probe) for probe in PROBES]
        if both[0] is None or both[1] is None:
            return None
        follows = _pattern(texts[1][both[0].end : both[1].start])
    before = texts[0][: one.start]
    # Calls without a mark begin a line; one that can only be alone is all of its turn.
    unmarked = re.compile(r"^\s*", re.MULTILINE) if follows else re.compile(r"\A\s*")
    form = CallText(
        first=_pattern(before, before=_TEXT) if before.strip() else unmarked,
        next=follows,
        last=_pattern(texts[0][one.end :]),
        keys=one.keys,
        named=None if one.keys else _pattern(one.between, before=r"(\S+?)", behind=r"(?=\{)"),
    )
    wanted = [(call.name, json.loads(call.arguments)) for call in PROBES]
    is_read = all(form.read(text) == wanted[:count] for count, text in enumerate(texts, start=1))
    return form if is_read else None


@dataclass(frozen=True, slots=True)
class _Found:
    """A known call in a text: its JSON object with the name in it, or name and arguments."""

    start: int
    end: int
    keys: tuple[str, str] | None
    between: str


def _find(text: str, probe: ToolCall) -> _Found | None:
    arguments = json.loads(probe.arguments)
    place = text.find(probe.name)
    for brace in reversed([found.start() for found in re.finditer(r"\{", text[: max(place, 0)])]):
        value, end = _json_at(text, brace)
        pairs = list(value.items()) if isinstance(value, dict) else []
        keys = [key for part in (probe.name, arguments) for key, one in pairs if one == part]
        if len(keys) == 2:
            return _Found(brace, end, (keys[0], keys[1]), "")
    brace = text.find("{", place)
    value, end = _json_at(text, brace)
    if place < 0 or value != arguments:
        return None
    return _Found(place, end, None, text[place + len(probe.name) : brace])


def _json_at(text: str, place: int) -> tuple[Any, int]:
    """Return the JSON object that begins at a place, and where it ends; None if none does."""
    if place < 0 or not text.startswith("{", place):
        return None, place
    try:
        return _JSON.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _pattern(literal: str, *, before: str = "", behind: str = "") -> re.Pattern[str]:
    """Return a pattern of a form's own words: any white space for some, any id for an id."""
    words = [r"[\w-]+".join(map(re.escape, _ID.split(word))) for word in literal.split()]
    inner = "".join(rf"{word}\s*" for word in words)
    return re.compile(rf"{before}\s*{inner}{behind}")


AS_LINES: Final = find_form([Turn("", "", tool_calls=PROBES[:count]).text for count in (1, 2)])
"""The form where a template has no other: each call a line of JSON behind the text."""
