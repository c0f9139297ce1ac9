"""Anthropic's parts and OpenAI's items are messages, calls, thoughts and tools' answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import assistant, read_entry, read_file, system, tool, user
from tuning.dialogue import ToolCall
from tuning.run.params import ColumnsParams

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


def test_a_thought_may_have_a_channel_of_its_own() -> None:
    """Harmony's: gpt-oss."""
    thought, said = ({"role": "assistant", "channel": c} for c in ("analysis", "final"))
    found = read_entry(
        {"messages": [QUESTION, thought | {"content": "Hm."}, said | {"content": "a"}]}
    )
    assert found.turns == [user("What is a lamp?"), assistant("a", reasoning="Hm.")]
    assert found.unused == {"message.channel": 1}


def test_geminis_messages_have_parts() -> None:
    contents = [
        {"role": "user", "parts": [{"text": "q"}, {"text": "r"}]},
        {"role": "model", "parts": [{"text": "a"}]},
    ]
    for key in ("systemInstruction", "system_instruction"):
        beside = {key: {"role": "system", "parts": [{"text": "Be kind."}]}}
        found = read_entry({**beside, "contents": contents})
        assert found.turns == [system("Be kind."), user("q\nr"), assistant("a")]
        assert found.unused == {}
    call = {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}
    assert read_entry({"contents": [contents[0], call]}).fault[0] == "not_text"


WRAPPED: dict[str, list[Any]] = {
    "LangChain": [
        {"type": "human", "data": {"content": "q", "additional_kwargs": {}}},
        {"type": "ai", "data": {"content": "a", "additional_kwargs": {}}},
    ],
    "an agent's log": [
        {"type": "user", "message": {"role": "user", "content": "q"}},
        {"type": "assistant", "message": {"role": "assistant", "content": [text("a")]}},
    ],
    "under who speaks": [{"user": "q"}, {"Assistant": "a"}],
    "OpenAI's assistants": [
        {"role": role, "content": [{"type": "text", "text": {"value": words, "annotations": []}}]}
        for role, words in (("user", "q"), ("assistant", "a"))
    ],
    "JSON texts": ['{"role": "user", "content": "q"}', '{"role": "assistant", "content": "a"}'],
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_message_may_stand_within_another_object_or_as_json(name: str) -> None:
    found = read_entry({"messages": WRAPPED[name]})
    assert found.turns == [user("q"), assistant("a")]
    assert {*found.unused} <= {"message.type"}


def test_an_agents_log_is_gathered_by_session(tmp_path: Path) -> None:
    rows = [
        row | {"sessionId": f"s{n // 2}"} for n, row in enumerate(WRAPPED["an agent's log"] * 2)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_file(path).dialogues
    assert [dialogue.dialogue_id for dialogue in found] == ["s0", "s1"]
    assert {dialogue.turns for dialogue in found} == {(user("q"), assistant("a"))}


MESSAGES = [{"role": "system", "content": "Be kind."}, QUESTION]
CHOICES = [{"message": {"role": "assistant", "content": c}, "index": 0} for c in ("a", "b")]
LOGGED: dict[str, dict[str, Any]] = {
    "a batch": {
        "body": {"messages": MESSAGES, "model": "m"},
        "response": {"body": {"choices": CHOICES, "usage": {}}},
    },
    "a proxy's": {
        "request": {"messages": MESSAGES, "model": "m"},
        "response": {"choices": CHOICES},
    },
    "side by side": {"messages": MESSAGES, "choices": CHOICES, "model": "m"},
}


@pytest.mark.parametrize("name", LOGGED)
def test_of_a_logged_request_only_the_response_is_trained(name: str) -> None:
    found = read_entry({"custom_id": "r1", **LOGGED[name]})
    assert found.turns == [
        system("Be kind.", weight=0.0),
        user("What is a lamp?", weight=0.0),
        assistant("a"),
    ]
    assert (found.unused["model"], found.passed_over) == (1, {"OpenAI: other choices": 1})


def test_an_answer_that_is_a_message_beside_others_is_refused() -> None:
    for answer in ({"role": "assistant", "content": "a"}, "a"):
        reason, fault = read_entry({"messages": MESSAGES, "response": answer}).fault
        assert reason == "wrong_layout"
        advice = re.search(r'list: "(.*?)"}', fault)
        assert advice
        paths = dict.fromkeys(("list", "who", "text", "role", "id")) | {"list": advice[1]}
        columns = ColumnsParams.model_validate(paths)
        assert read_entry({"messages": MESSAGES, "response": answer}, columns=columns).turns == [
            system("Be kind."),
            user("What is a lamp?"),
            assistant("a"),
        ]


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
