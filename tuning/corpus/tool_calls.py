"""Calls of functions, in the forms that data has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from tuning.corpus.faults import Invalid, checked, decoded, found, holds, unpacked
from tuning.corpus.message_keys import Plan
from tuning.corpus.roles import CALLS
from tuning.dialogue import ToolCall

_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
"""OpenAI's, Llama's, LangChain's, Anthropic's."""
_USED: Final = frozenset({"id", "type", "index", "function", "name", *_ARGUMENTS})


def tool_calls(
    item: Mapping[str, Any], plan: Plan, where: str, unused: Counter[str]
) -> tuple[ToolCall, ...]:
    """Return a message's calls: OpenAI's ``tool_calls``, else its older ``function_call``.

    What a call holds besides is counted as not used.
    """
    for key in plan.calls:
        calls = unpacked(item[key])
        if calls in (None, "", [], {}):
            continue
        if isinstance(calls, dict):
            calls = [calls]
        if not isinstance(calls, list):
            raise Invalid("not_text", f"{where}: {key!r}: wanted a list, {found(calls)}")
        return tuple(_call(call, where, unused) for call in calls)
    return ()


def spells_call(who: Any) -> bool:
    """Tell whether a speaker is none but says that the text is a call (ShareGPT)."""
    return isinstance(who, str) and who.strip().casefold() in CALLS


def called(text: str, where: str, unused: Counter[str]) -> tuple[ToolCall, ...]:
    """Return the calls that a text is, as JSON: one or a list of them; none if it is other text."""
    value = unpacked(text)
    calls = value if isinstance(value, list) else [value]
    if all(isinstance(_function(call).get("name"), str) for call in calls):
        return tuple(_call(call, where, unused) for call in calls)
    return ()


def _call(call: Any, where: str, unused: Counter[str]) -> ToolCall:
    function = _function(call)
    if not isinstance(function.get("name"), str):
        raise Invalid("not_text", f"{where}: wanted a call with a 'name', {found(call)}")
    arguments = next((function[key] for key in _ARGUMENTS if key in function), None)
    if arguments in (None, "", []):
        arguments = {}
    beside = dict(call) | dict(function)
    unused.update(f"call.{key}"[:80] for key in beside if key not in _USED and holds(beside[key]))
    name = checked(function["name"], where)
    _check_object(arguments, f"{where}: the arguments of the call {name[:40]!r}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    call_id = call.get("id")
    return ToolCall(
        name,
        checked(arguments, where),
        checked(str(call_id), where) if isinstance(call_id, str | int) else "",
    )


def _check_object(arguments: Any, where: str) -> None:
    """Raise ``Invalid`` if it is no JSON object: a server could not take it for arguments."""
    try:
        read = decoded(arguments) if isinstance(arguments, str) else arguments
    except Invalid as invalid:
        raise Invalid(invalid.reason, f"{where}: {invalid}") from None
    if not isinstance(read, dict):
        raise Invalid("not_json", f"{where}: wanted an object, {found(read)}")
    try:
        json.dumps(read, allow_nan=False)
    except ValueError:
        raise Invalid("not_json", f"{where}: not JSON: NaN or infinity") from None


def _function(call: Any) -> Mapping[str, Any]:
    """What stands under ``function``, or the call itself; nothing if it is no object."""
    function = call.get("function", call) if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}
