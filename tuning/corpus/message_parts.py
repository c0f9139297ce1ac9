"""Messages of other interfaces as those of chat completions.

Anthropic's Messages hold thoughts, calls and tools' answers as parts of a message's content;
OpenAI's Responses have an item of its own for each, and Harmony a channel for thoughts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

_PARTS: Final = frozenset({"thinking", "redacted_thinking", "tool_use", "tool_result"})
_ITEMS: Final = frozenset({"reasoning", "function_call", "function_call_output", "message"})


def is_item(value: Any) -> bool:
    """Tell whether a value is an item of OpenAI's Responses that is no message."""
    if _kind(value) not in _ITEMS - {"message"}:
        return False
    return not value.keys().isdisjoint({"summary", "call_id"})


def as_messages(items: list[Any], passed_over: Counter[str]) -> list[Any]:
    """Return messages with calls, thoughts and answers under chat completions' keys.

    Args:
        items: A list of messages; without any such part or item, it is returned as it is.
        passed_over: Counts what has no place in a message, by kind.
    """
    if not any(map(_is_compound, items)):
        return items
    messages: list[Any] = []
    thoughts: list[str] = []
    for item in items:
        if is_item(item) and item["type"] == "reasoning":
            said = _thoughts_of(item)
            thoughts += said
            passed_over["OpenAI: encrypted reasoning"] += not said
        elif _is_analysis(item):
            thoughts.append(item["content"])
        elif is_item(item):
            _add_item(messages, item, thoughts)
        elif isinstance(item, dict):
            own = {key: value for key, value in item.items() if (key, value) != ("type", "message")}
            for message in _split(own, passed_over):
                messages.append(_with_thoughts(message, thoughts))
        else:
            messages.append(item)
    if thoughts:
        messages.append(_with_thoughts({"role": "assistant", "content": None}, thoughts))
    passed_over += Counter()  # takes out zeros
    return messages


def _is_compound(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    if _kind(item) in _ITEMS and ("role" in item or is_item(item)):
        return True
    if _is_analysis(item):
        return True
    content = item.get("content")
    return isinstance(content, list) and any(_kind(part) in _PARTS for part in content)


def _is_analysis(item: Any) -> bool:
    """Tell whether a message is a thought by its channel (Harmony: gpt-oss)."""
    return (
        isinstance(item, dict)
        and item.get("channel") == "analysis"
        and item.get("role") == "assistant"
        and isinstance(item.get("content"), str)
    )


def _kind(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def _thoughts_of(item: Mapping[str, Any]) -> list[str]:
    """The text of an item of reasoning, or its summary."""
    for key in ("content", "summary"):
        parts = item.get(key) or []
        texts = [part["text"] for part in parts if isinstance(part, dict) and part.get("text")]
        if texts:
            return [str(text) for text in texts]
    return []


def _with_thoughts(message: dict[str, Any], thoughts: list[str]) -> dict[str, Any]:
    """Give thoughts to the assistant's message that follows them; there are none left then."""
    if not thoughts or message.get("role") != "assistant":
        return message
    text = "\n".join(thoughts)
    thoughts.clear()
    return {**message, "reasoning_content": text}


def _add_item(messages: list[Any], item: Mapping[str, Any], thoughts: list[str]) -> None:
    """Add a call to the assistant's message that it stands behind, or an answer to a call."""
    if item["type"] == "function_call_output":
        answer = {
            "role": "tool",
            "tool_call_id": item.get("call_id"),
            "content": item.get("output"),
        }
        messages.append(answer)
        return
    call = {key: value for key, value in item.items() if key not in ("type", "status", "id")}
    call["id"] = call.pop("call_id", None)
    last = messages[-1] if messages else None
    if thoughts or not isinstance(last, dict) or last.get("role") != "assistant":
        last = _with_thoughts({"role": "assistant", "content": None}, thoughts)
        messages.append(last)
    else:
        last = messages[-1] = dict(last)
    last["tool_calls"] = [*(last.get("tool_calls") or []), call]


def _split(message: dict[str, Any], passed_over: Counter[str]) -> list[dict[str, Any]]:
    """A message without Anthropic's parts, and a message for each of a tool's answers in it."""
    content = message.get("content")
    if not isinstance(content, list) or not any(_kind(part) in _PARTS for part in content):
        return [message]
    messages: list[dict[str, Any]] = []
    thoughts, calls, rest = [], [], []
    for part in content:
        match _kind(part):
            case "thinking":
                thoughts.append(str(part.get("thinking") or ""))
            case "redacted_thinking":
                passed_over["Anthropic: redacted thinking"] += 1
            case "tool_use":
                calls.append(
                    {"id": part.get("id"), "name": part.get("name"), "input": part.get("input")}
                )
            case "tool_result":
                answer = {"role": "tool", "tool_call_id": part.get("tool_use_id")}
                messages.append({**answer, "content": part.get("content") or ""})
            case _:
                rest.append(part)
    if rest or calls or thoughts:
        own = message | {"content": rest or None}
        if thoughts:
            own["reasoning_content"] = "\n".join(thoughts)
        if calls:
            own["tool_calls"] = [*(message.get("tool_calls") or []), *calls]
        messages.append(own)
    return messages
