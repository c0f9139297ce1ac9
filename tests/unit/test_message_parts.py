"""Anthropic's parts and OpenAI's items are messages, calls, thoughts and tools' answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.corpora import assistant, read_entry, system, tool, user
from tuning.dialogue import ToolCall

QUESTION = {"role": "user", "content": "What is a lamp?"}
PRICE = ToolCall("price_of", '{"item": "lamp"}', "k1")
STOCK = ToolCall("stock_of", "{}", "k2")


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_anthropics_parts_are_thoughts_calls_and_answers() -> None:
    said = [
        QUESTION,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                text("Let me see."),
                {"type": "tool_use", "id": "k1", "name": "price_of", "input": {"item": "lamp"}},
                {"type": "tool_use", "id": "k2", "name": "stock_of", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "k1", "content": [text("3")]},
                {"type": "tool_result", "tool_use_id": "k2", "content": "none"},
                text("And a chair?"),
            ],
        },
        {"role": "assistant", "content": [text("A lamp is 3.")], "weight": 0},
    ]
    for entry in ({"messages": said, "system": "Be kind."}, {"conversations": said}):
        found = read_entry(entry)
        assert found.turns == [
            *([system("Be kind.")] if "system" in entry else []),
            user("What is a lamp?"),
            assistant("Let me see.", reasoning="Hm.", tool_calls=(PRICE, STOCK)),
            tool("3", tool_call_id="k1"),
            tool("none", tool_call_id="k2"),
            user("And a chair?"),
            assistant("A lamp is 3.", weight=0.0),
        ]
        assert (found.unused, found.passed_over) == ({}, {"Anthropic: redacted thinking": 1})


def item(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


CALL = {"call_id": "k1", "name": "price_of", "arguments": '{"item": "lamp"}'}
SUMMARY = [{"type": "summary_text", "text": "Hm."}]
ITEMS = [
    item("reasoning", id="r1", summary=SUMMARY, encrypted_content="x"),
    item("message", role="assistant", content=[{"type": "output_text", "text": "Let me see."}]),
    item("function_call", id="f1", status="completed", **CALL),
    item("function_call", call_id="k2", name="stock_of", arguments="{}"),
    item("function_call_output", call_id="k1", output="3"),
    item("function_call_output", call_id="k2", output=[text("none")]),
    item("reasoning", summary=[]),
    item("message", role="assistant", content=[{"type": "output_text", "text": "A lamp is 3."}]),
]
TURNS = [
    assistant("Let me see.", reasoning="Hm.", tool_calls=(PRICE, STOCK)),
    tool("3", tool_call_id="k1"),
    tool("none", tool_call_id="k2"),
    assistant("A lamp is 3."),
]


def test_openais_items_are_messages_calls_and_answers() -> None:
    found = read_entry({"messages": [item("message", **QUESTION), *ITEMS]})
    assert found.turns == [user("What is a lamp?"), *TURNS]
    assert (found.unused, found.passed_over) == ({}, {"OpenAI: encrypted reasoning": 1})


@pytest.mark.parametrize("asked", ["What is a lamp?", [QUESTION]])
def test_a_response_is_trained_and_what_it_answers_is_not(asked: Any) -> None:
    found = read_entry({"instructions": "Be kind.", "input": asked, "output": ITEMS, "model": "x"})
    assert found.turns == [system("Be kind."), user("What is a lamp?", weight=0.0), *TURNS]
    assert found.unused == {"model": 1}


def test_a_call_may_come_first_and_thoughts_may_come_last() -> None:
    found = read_entry({"messages": [item("function_call", **CALL), ITEMS[4], ITEMS[0]]})
    assert found.turns == [
        assistant("", tool_calls=(PRICE,)),
        tool("3", tool_call_id="k1"),
        assistant("", reasoning="Hm."),
    ]
    thought = [ITEMS[0], item("function_call", **CALL)]
    assert read_entry({"messages": [QUESTION, *thought]}).turns[1] == assistant(
        "", reasoning="Hm.", tool_calls=(PRICE,)
    )


def test_other_parts_are_faults_as_before() -> None:
    picture = {"type": "image", "source": {}}
    results = [{"type": "tool_result", "tool_use_id": "k1", "content": [picture]}]
    for content in ([text("see"), picture], results):
        reason, fault = read_entry({"messages": [{"role": "user", "content": content}]}).fault
        assert reason == "not_text"
        assert fault.endswith("wanted parts of type 'text', found str 'image'")


@pytest.mark.parametrize("arguments", ["lamp", "{'item': 'lamp'}", '{"a": 1', '{"a": 1, "a": 2}'])
def test_arguments_that_are_no_json_are_a_fault_by_the_calls_name(arguments: str) -> None:
    own = {"name": "f", "arguments": arguments}
    for call in ({"function": own}, {"name": "f", "input": arguments}):
        entry = {"messages": [QUESTION, {"role": "assistant", "tool_calls": [call]}]}
        reason, fault = read_entry(entry).fault
        assert reason in ("not_json", "repeated_key")
        assert fault.startswith("turn 2: the arguments of the call 'f': ")
