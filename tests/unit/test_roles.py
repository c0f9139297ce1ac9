"""Roles, weights, reasoning, calls and tools: what data for assistants says of each message."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.corpora import assistant, data_params, read_entry, system, tool, user
from tuning.corpus.records import RecordReader
from tuning.dialogue import Dialogue, ToolCall, Turn, from_line, to_line, trained_turns
from tuning.reading.pieces import RawRecord

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SPELLINGS = {
    "system": ["system", "developer", "System ", "DEVELOPER"],
    "user": ["user", "User", "USER", "user ", "human", "Human", "prompter"],
    "assistant": [
        *("assistant", "Assistant", " ASSISTANT", "gpt", "GPT", "chatgpt", "bing", "bard"),
        *("bot", "chatbot", "model", "ai", "AI"),
    ],
    "tool": [
        *("tool", "function", "ipython", "observation", "function_response", "Tool_Response"),
        *("function_result", "tool_result"),
    ],
}


def messages(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


# Roles


@pytest.mark.parametrize(
    ("spelling", "role"), [(s, role) for role, spellings in SPELLINGS.items() for s in spellings]
)
@pytest.mark.parametrize("key", ["role", "from", "speaker", "sender"])
def test_a_role_is_known_however_it_is_spelled(key: str, spelling: str, role: Any) -> None:
    said = [{key: "user", "value": "q"}, {key: "gpt", "value": "a"}, {key: spelling, "value": "x"}]
    turns = read_entry({"conversations": said}).turns
    assert turns == [user("q"), assistant("a"), Turn(role, "x", role)]


def test_spellings_of_one_role_are_one_speaker() -> None:
    said = [("human", "1"), ("gpt", "2"), ("USER ", "3"), ("Assistant", "4"), ("user", "5")]
    dialogue = read_entry([{"from": who, "value": text} for who, text in said]).dialogue
    assert dialogue.speakers == ("user", "assistant")
    assert [turn.role for turn in dialogue.turns] == [*("user", "assistant") * 2, "user"]


def test_a_team_has_spellings_of_its_own_and_they_come_first() -> None:
    said = [{"role": "Agent ", "content": "Yes?"}, {"role": "customer", "content": "No."}]
    roles = {"agent": "assistant", "Customer": "user", "bot": "system"}
    assert read_entry(messages(*said), roles=roles).turns == [assistant("Yes?"), user("No.")]
    assert read_entry(messages(*said)).turns == [Turn("Agent", "Yes?"), Turn("customer", "No.")]
    bot = read_entry(messages({"role": "bot", "content": "x"}), roles=roles)
    assert bot.turns == [system("x")]


def test_a_message_that_says_its_kind_has_that_role() -> None:
    """LangChain's."""
    said = [("system", "s"), ("human", "q"), ("ai", "a"), ("tool", "t")]
    found = read_entry(messages(*({"type": kind, "content": text} for kind, text in said)))
    assert found.turns == [system("s"), user("q"), assistant("a"), tool("t")]
    assert found.unused == {}


def test_the_assistant_may_begin_speak_twice_or_not_at_all() -> None:
    assert read_entry(messages(ASSISTANT, USER)).turns == [assistant("a"), user("q")]
    assert read_entry(messages(USER, USER, ASSISTANT, ASSISTANT)).turns == [
        *(user("q"), user("q"), assistant("a"), assistant("a")),
    ]
    without = read_entry(messages({"role": "system", "content": "s"}, USER))
    assert without.turns == [system("s"), user("q")]


def test_a_system_that_answers_a_user_is_the_assistant() -> None:
    """As in Schema-Guided Dialogue and MultiWOZ; what stands beside the turns is a system text."""
    said = [{"speaker": "USER", "utterance": "q"}, {"speaker": "SYSTEM", "utterance": "a"}]
    assert read_entry({"turns": said}).turns == [user("q"), assistant("a")]
    beside = read_entry({"turns": said, "system": "Be kind."})
    assert beside.turns == [system("Be kind."), user("q"), assistant("a")]
    reminded = read_entry(messages(USER, {"role": "system", "content": "s"}, ASSISTANT))
    assert reminded.turns == [user("q"), system("s"), assistant("a")]


# Names


def test_users_with_names_are_speakers_of_their_own() -> None:
    said = [
        {"role": "user", "name": "Mira", "content": "1"},
        {"role": "user", "name": "Tobi", "content": "2"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "name": "", "content": "4"},
        {"role": "user", "name": None, "content": "5"},
        {"role": "user", "name": 7, "content": "6"},
    ]
    assert read_entry(messages(*said)).turns == [
        Turn("Mira", "1", "user"),
        Turn("Tobi", "2", "user"),
        assistant("3"),
        user("4"),
        user("5"),
        Turn("7", "6", "user"),
    ]


@pytest.mark.parametrize("key", ["name", "speaker", "sender", "author"])
def test_a_name_beside_a_role_may_be_under_any_usual_key(key: str) -> None:
    found = read_entry(messages({"role": "user", key: "Mira", "content": "q"}))
    assert (found.turns, found.unused) == ([Turn("Mira", "q", "user")], {})
    same = read_entry(messages({"role": "user", key: "human", "content": "q"}))
    assert (same.turns, same.unused) == ([user("q")], {})


@pytest.mark.parametrize("key", ["name", "sender_name", "participant"])
def test_people_may_be_called_as_roles_are(key: str) -> None:
    said = [{key: "User", "text": "1"}, {key: "Model", "text": "2"}, {key: "System", "text": "3"}]
    assert read_entry({"chat": said}).turns == [
        Turn("User", "1"),
        Turn("Model", "2"),
        Turn("System", "3"),
    ]
    assert read_entry({"chat": said[:1]}, roles={"user": "user"}).turns == [user("1")]


@pytest.mark.parametrize("name", ["Model", "developer", "Ai", "Bard"])
@pytest.mark.parametrize("key", ["speaker", "sender", "author"])
def test_beside_a_person_a_trade_or_a_name_is_no_role(key: str, name: str) -> None:
    said = [{key: "Ann", "text": "1"}, {key: name, "text": "2"}, {key: "User", "text": "3"}]
    assert read_entry({"chat": said}).turns == [Turn("Ann", "1"), Turn(name, "2"), user("3")]
    assert read_entry({"chat": said}, roles={name: "tool"}).turns[1] == tool("2")
    by_role = [{"role": "Ann", "text": "1"}, {"role": name, "text": "2"}]
    assert read_entry({"chat": by_role}).turns[1].role in ("assistant", "system")


def test_an_author_is_an_object_with_a_role_or_a_name() -> None:
    said = [
        {"author": {"role": "user"}, "content": "1"},
        {"author": {"role": "tool", "name": "search"}, "content": {"parts": ["2", "3"]}},
        {"author": {"name": "user"}, "content": "4"},
        {"author": {"name": "mod", "nickname": "Mod", "id": "9"}, "content": "5"},
        {"author": {"id": 9}, "content": "6"},
        {"author": {"name": "Helper", "isBot": True}, "content": "7"},
    ]
    assert read_entry({"messages": said}).turns == [
        user("1"),
        tool("2\n3"),
        Turn("user", "4"),
        Turn("Mod", "5"),
        Turn("9", "6"),
        Turn("Helper", "7"),
    ]


def test_white_space_round_a_name_is_none_of_it() -> None:
    found = read_entry(
        {"turns": [{"speaker": "Ann ", "text": "1"}, {"speaker": "Ann", "text": "2"}]}
    )
    assert found.dialogue.speakers == ("Ann",)


# Weights


@pytest.mark.parametrize(
    "flags",
    [
        *({"weight": value} for value in (0, 0.0, False, "0", "0.0", "false", "False ")),
        *({key: False} for key in ("train", "loss", "trainable", "training", "train_on")),
        *({"calculate_loss": 0}, {"Train": "false"}),
        *({key: value} for key in ("mask", "masked") for value in (True, 1, "true")),
        *({key: True} for key in ("ignore", "skip", "hidden")),
        {"weight": 1, "train": False},
        {"train": True, "mask": True},
    ],
)
def test_what_is_flagged_as_not_trained_is_context(flags: dict[str, Any]) -> None:
    found = read_entry(messages(USER, {**ASSISTANT, **flags}))
    assert found.turns == [user("q"), assistant("a", weight=0.0)]
    assert found.unused == {}
    assert trained_turns(found.turns, "all") == [True, False]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        *({"weight": value} for value in (1, 1.0, True, "1", "true", None, "")),
        *({key: True} for key in ("train", "loss", "trainable")),
        *({"mask": value} for value in (False, 0, None)),
    ],
)
def test_what_is_flagged_as_trained_is_as_any_other(flags: dict[str, Any]) -> None:
    assert read_entry(messages(USER, {**ASSISTANT, **flags})).turns == [user("q"), assistant("a")]


def test_weights_are_each_messages_own() -> None:
    said = [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}]
    assert [turn.weight for turn in read_entry(messages(*said)).turns] == [1, 0, 1, 1]
    columns = {"from": ["human", "gpt"], "value": ["q", "a"], "weight": [0, 1]}
    assert [turn.weight for turn in read_entry({"conversations": columns}).turns] == [0, 1]


def test_a_weight_may_be_any_share_and_a_records_own_is_times_its_messages() -> None:
    said = [USER, {**ASSISTANT, "weight": 0.5}, USER, {**ASSISTANT, "loss_weight": "2.5"}]
    found = read_entry({**messages(*said), "weight": 0.1})
    assert [turn.weight for turn in found.turns] == pytest.approx([0.1, 0.05, 0.1, 0.25])
    assert found.unused == {}
    columns = {"from": ["human", "gpt"], "value": ["q", "a"], "weight": [0, 0.3]}
    assert [turn.weight for turn in read_entry({"conversations": columns}).turns] == [0, 0.3]
    found = read_entry({**messages(USER, ASSISTANT), "weight": [1, 0.75]})
    assert [turn.weight for turn in found.turns] == [1, 0.75]
    assert trained_turns(found.turns, "auto") == [False, True]


def test_of_a_list_of_flags_each_entry_counts_or_is_a_fault() -> None:
    said = messages(USER, ASSISTANT, USER, ASSISTANT)
    found = read_entry({**said, "weights": [None, 0.5, "", 0]})
    assert [turn.weight for turn in found.turns] == [1, 0.5, 1, 0]
    for key, values in (("weight", [1, -1, 1, 0]), ("loss_mask", [0, 1, 0, 0.5])):
        assert read_entry({**said, key: values}).fault[0] == "weight"
    found = read_entry({**said, "ignore": ["names", "of", "something", "else"]})
    assert [turn.weight for turn in found.turns] == [1, 1, 1, 1]
    assert found.unused == {"ignore": 1}


def test_weights_that_come_to_what_no_sane_weight_is_are_a_fault() -> None:
    heavy = {**messages(USER, {**ASSISTANT, "weight": 1e6}), "loss_weight": 1e6}
    light = {**messages(USER, {**ASSISTANT, "weight": 1e-6}), "weight": [1, 1e-3]}
    for entry in (heavy, light):
        reason, fault = read_entry(entry).fault
        assert reason == "weight" and "weights that come to 1e" in fault


def test_a_flag_of_a_part_of_a_message_is_refused() -> None:
    part = {"type": "text", "text": "a", "weight": 0}
    reason, fault = read_entry(messages(USER, {**ASSISTANT, "content": [part]})).fault
    assert reason == "weight" and "'weight' of a part of its content" in fault


@pytest.mark.parametrize(
    "loss_on", ["all", "last", "system", "tool", "Mira", ["system", "tool", "last", "Mira"]]
)
def test_a_system_text_and_a_tools_answer_are_never_trained(loss_on: str | list[str]) -> None:
    turns = [system("s"), user("q"), assistant("a"), tool("t"), Turn("Mira", "m", "system")]
    wanted = [False, loss_on == "all", loss_on == "all" or "last" in loss_on, False, False]
    assert trained_turns(turns, loss_on) == wanted


def test_the_turns_of_a_role_or_of_a_speaker_are_trained() -> None:
    turns = [Turn("Mira", "1", "user"), assistant("2"), Turn("Luna", "3", "assistant")]
    assert trained_turns(turns, "assistant") == [False, True, True]
    assert trained_turns(turns, "Luna") == [False, False, True]
    assert trained_turns(turns, "user") == [True, False, False]
    assert trained_turns(turns, "last") == [False, False, True]
    assert trained_turns([assistant("1"), assistant("2", weight=0.0)], "last") == [False, False]


@pytest.mark.parametrize(
    ("turns", "number"),
    [
        pytest.param([Turn("ann", "1"), Turn("bob", "2"), Turn("ann", "3")], 2, id="people"),
        pytest.param([user("1"), assistant("2"), user("3")], 1, id="a user's turn behind"),
        pytest.param([user("1"), assistant("2"), tool("3")], 1, id="a tool's answer behind"),
        pytest.param([assistant("1"), Turn("ann", "2")], 0, id="a role and a person"),
        pytest.param([user("1"), assistant("2"), assistant("3")], 2, id="two answers"),
        pytest.param([user("1"), user("2")], None, id="no assistant"),
        pytest.param([assistant("1"), assistant("2", weight=0.0)], None, id="context"),
        pytest.param([Turn("ann", "1"), Turn("ann", "2", weight=0.0)], None, id="people's context"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_last_is_the_assistants_last_turn_where_there_are_roles_and_else_the_last(
    turns: list[Turn], number: int | None
) -> None:
    assert trained_turns(turns, "last") == [index == number for index in range(len(turns))]


@pytest.mark.parametrize("value", [0.31, "2.5", 7, float("nan")])
def test_a_measured_loss_is_no_flag_and_is_named(value: Any) -> None:
    found = read_entry({**messages(USER, {**ASSISTANT, "loss": value}), "Loss": value})
    assert found.turns == [user("q"), assistant("a")]
    assert found.unused == {"message.loss": 1, "Loss": 1}
    assert read_entry(messages({**ASSISTANT, "train": value})).fault[0] == "weight"


def test_a_list_of_flags_is_one_for_each_message() -> None:
    entry = messages(USER, ASSISTANT, USER, ASSISTANT)
    for key, values in (("mask", [1, 0, 0, 1]), ("Loss", [False, True, True, "false"])):
        found = read_entry({**entry, key: values, "system": "s"})
        assert [turn.weight for turn in found.turns] == [1, 0, 1, 1, 0]
        assert found.unused == {}
    reason, fault = read_entry({**entry, "mask": [0, 1]}).fault
    assert (reason, fault) == (
        "weight",
        "the record: 'mask': wanted a flag for each of 4 turns (a system text may lack one), found "
        "2",
    )
    beside = read_entry({**entry, "mask": [0, 1, 0], "system": "s"})
    assert "wanted a flag for each of 5 turns" in beside.fault[1]
    assert beside.fault[1].endswith("found 3")
    assert read_entry({**entry, "loss": [0.3, 2]}).unused == {"loss": 1}


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        pytest.param([Turn("ann", "1"), Turn("bob", "2")], [True, True], id="people"),
        pytest.param([user("1"), assistant("2"), user("3")], [False, True, False], id="roles"),
        pytest.param(
            [Turn("Mira", "1", "user"), Turn("Luna", "2", "assistant")], [False, True], id="names"
        ),
        pytest.param([assistant("1"), Turn("ann", "2")], [True, False], id="a role and a person"),
        pytest.param(
            [system("1"), user("2"), assistant("3"), tool("4"), assistant("5", weight=0.0)],
            [False, False, True, False, False],
            id="context",
        ),
        pytest.param([user("1"), user("2")], [False, False], id="no assistant"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_auto_trains_the_assistant_where_there_are_roles_and_else_everybody(
    turns: list[Turn], wanted: list[bool]
) -> None:
    assert trained_turns(turns, "auto") == wanted


@pytest.mark.parametrize(
    ("loss_on", "wanted"),
    [
        (["all"], [True, True, True, True]),
        (["Luna"], [False, False, True, False]),
        (["Luna", "user"], [True, False, True, True]),
        (["nobody", "last"], [False, False, True, False]),
        (["last", "Mira"], [True, False, True, False]),
        (["auto", "Mira"], [True, True, True, False]),
        (["nobody"], [False] * 4),
        ([], [False] * 4),
    ],
)
def test_a_list_trains_what_any_of_its_entries_does(loss_on: list[str], wanted: list[bool]) -> None:
    said = [Turn("Mira", "1", "user"), assistant("2"), Turn("Luna", "3", "assistant"), user("4")]
    assert trained_turns(said, loss_on) == wanted
    never = [replace(turn, weight=0.0) for turn in said]
    assert trained_turns(never, loss_on) == [False] * 4


def test_responses_are_the_turns_that_may_be_scored() -> None:
    """Nothing stands before a first turn, so nothing of it is a response."""
    said = (assistant("1"), user("2", weight=0.0), assistant("3"), user("4"))
    assert Dialogue("x", said).responses == [2, 3]
    assert Dialogue("x", said[:2]).responses == []


# Reasoning


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_reasoning_is_kept_with_its_turn(key: str) -> None:
    found = read_entry(messages(USER, {**ASSISTANT, key: " Hm.\n"}))
    assert found.turns == [user("q"), assistant("a", reasoning="Hm.")]
    parts = read_entry(messages(USER, {**ASSISTANT, key: [{"type": "text", "text": "Hm."}]}))
    assert parts.turns == found.turns
    nothing: Any
    for nothing in (None, "", []):
        assert read_entry(messages({**ASSISTANT, key: nothing})).turns == [assistant("a")]


def test_a_turn_may_be_reasoning_alone_and_a_second_one_is_named() -> None:
    thought = {"role": "assistant", "content": None, "reasoning": "Hm.", "thinking": "Hm?"}
    found = read_entry(messages(USER, thought))
    assert found.turns == [user("q"), assistant("", reasoning="Hm.")]
    assert found.unused == {"message.thinking": 1}


# Calls

PRICE = ToolCall("price_of", '{"item": "lamp"}')
ARGUMENTS = {"item": "lamp"}


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
def test_a_call_needs_no_text(content: dict[str, Any], arguments: Any) -> None:
    call = {
        "id": "k0",
        "type": "function",
        "function": {"name": "price_of", "arguments": arguments},
    }
    answer = {"role": "tool", "tool_call_id": "k0", "content": '{"price": 3}'}
    found = read_entry(
        messages(USER, {"role": "assistant", **content, "tool_calls": [call]}, answer)
    )
    assert found.turns == [
        user("q"),
        assistant("", tool_calls=(ToolCall("price_of", PRICE.arguments, "k0"),)),
        tool('{"price": 3}', tool_call_id="k0"),
    ]
    assert found.unused == {}
    assert trained_turns(found.turns, "all") == [True, True, False]


CALLS: dict[str, dict[str, Any]] = {
    "older": {"function_call": {"name": "price_of", "arguments": PRICE.arguments}},
    "older as JSON text": {"function_call": '{"name": "price_of", "arguments": {"item": "lamp"}}'},
    "beside none": {
        "tool_calls": [],
        "function_call": {"name": "price_of", "arguments": ARGUMENTS},
    },
    "none beside": {
        "tool_calls": [{"name": "price_of", "parameters": ARGUMENTS}],
        "function_call": None,
    },
    "as JSON text": {"tool_calls": '[{"name": "price_of", "arguments": {"item": "lamp"}}]'},
    "in capitals": {"Tool_Calls": [{"function": {"name": "price_of", "arguments": ARGUMENTS}}]},
    "one": {"tool_calls": {"name": "price_of", "arguments": ARGUMENTS}},
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_known_in_any_usual_form(name: str) -> None:
    found = read_entry(messages(USER, {**ASSISTANT, "content": "Let me see.", **CALLS[name]}))
    assert found.turns == [user("q"), assistant("Let me see.", tool_calls=(PRICE,))]
    assert found.unused == {}


def test_calls_may_be_several_and_without_arguments() -> None:
    calls = [
        {"id": 1, "function": {"name": "price_of", "arguments": ARGUMENTS}},
        *({"name": "now", **nothing} for nothing in ({}, {"arguments": ""}, {"arguments": None})),
    ]
    answers = [{"role": "tool", "tool_call_id": 1, "content": "3"}]
    found = read_entry(messages(USER, {"role": "assistant", "tool_calls": calls}, *answers))
    price = ToolCall("price_of", PRICE.arguments, "1")
    assert found.turns[1] == assistant("", tool_calls=(price, *[ToolCall("now", "{}")] * 3))
    assert found.turns[2] == tool("3", tool_call_id="1")
    assert found.turns[1].text.splitlines() == [
        '{"name": "price_of", "arguments": {"item": "lamp"}}',
        *['{"name": "now", "arguments": {}}'] * 3,
    ]


def test_no_calls_are_none() -> None:
    nothing: Any
    for nothing in ({"tool_calls": None}, {"tool_calls": []}, {"function_call": None}):
        found = read_entry(messages(USER, {**ASSISTANT, **nothing}))
        assert found.turns == [user("q"), assistant("a")]


def test_every_call_of_a_file_is_one() -> None:
    call = '{"name": "price_of", "arguments": {"item": "lamp"}}'
    said = [("human", "q"), ("function_call", call), ("observation", "3"), ("gpt", "a")]
    turns = [{"from": who, "value": value} for who, value in [*said, *said]]
    read = RecordReader(data_params())
    for _ in range(2):
        (record,) = read(RawRecord("x", "1", json.dumps({"conversations": turns})))
        assert record.dialogue is not None
        assert [turn.tool_calls for turn in record.dialogue.turns[1::4]] == [(PRICE,)] * 2


def test_parts_of_text_may_call_it_a_value() -> None:
    content = [{"type": "text", "value": "one"}, {"type": "text", "value": "two"}]
    assert read_entry(messages(USER, {**ASSISTANT, "content": content})).turns[1].text == "one\ntwo"


@pytest.mark.parametrize("who", ["function_call", "tool_call", "Function_Call "])
def test_sharegpt_has_calls_as_speakers(who: str) -> None:
    one = '{"name": "price_of", "arguments": {"item": "lamp"}}'
    for value, calls in ((one, (PRICE,)), (f"[{one}, {one}]", (PRICE, PRICE))):
        said = [("human", "q"), (who, value), ("observation", "3"), ("gpt", "a")]
        found = read_entry({"conversations": [{"from": w, "value": v} for w, v in said]})
        assert found.turns == [
            user("q"),
            assistant("", tool_calls=calls),
            tool("3"),
            assistant("a"),
        ]
        assert trained_turns(found.turns, "all") == [True, True, False, True]
        assert trained_turns(found.turns, "assistant") == [False, True, False, True]


@pytest.mark.parametrize("text", ["price_of(lamp)", "[]", "{}", '{"item": 1}', "[1]", "{"])
def test_a_call_that_is_other_text_stays_text(text: str) -> None:
    said = [{"from": "human", "value": "q"}, {"from": "function_call", "value": text}]
    assert read_entry({"conversations": said}).turns == [user("q"), assistant(text)]


def test_names_of_tools_and_assistants_make_no_speakers() -> None:
    answer = {"role": "function", "name": "price_of", "content": "3"}
    named = {**ASSISTANT, "name": "Luna"}
    found = read_entry(messages(USER, answer, named))
    assert found.turns == [user("q"), tool("3"), assistant("a")]


# Tools


@pytest.mark.parametrize("key", ["tools", "functions", "available_tools"])
@pytest.mark.parametrize("as_text", [False, True])
def test_tools_stand_beside_the_messages(key: str, as_text: bool) -> None:
    tools = [{"name": "price_of", "description": "☺"}]
    value = json.dumps(tools, ensure_ascii=False) if as_text else tools
    for said in ([USER, ASSISTANT], json.dumps([USER, ASSISTANT])):
        found = read_entry({"messages": said, key: value})
        assert found.dialogue.tools == '[{"name": "price_of", "description": "☺"}]'
        assert found.unused == {}
    pair = read_entry({"prompt": "q", "response": "a", key: value})
    assert (pair.turns, json.loads(pair.dialogue.tools)) == ([user("q"), assistant("a")], tools)


@pytest.mark.parametrize("nothing", [None, [], "[]", " [] ", "", "null", {}])
def test_no_tools_are_none(nothing: Any) -> None:
    found = read_entry({**messages(USER), "tools": nothing, "functions": [{"name": "f"}]})
    assert found.dialogue.tools == '[{"name": "f"}]'
    assert found.unused == {}
    assert read_entry({**messages(USER), "tools": nothing}).dialogue.tools == ""


# On disk


def test_a_dialogue_is_read_as_it_was_written() -> None:
    dialogue = Dialogue(
        "x",
        (
            system("s"),
            Turn("Mira", "q", "user", weight=0.0),
            assistant("", reasoning="Hm.", tool_calls=(PRICE, ToolCall("now", "{}", "k"))),
            tool("3", tool_call_id="k"),
            Turn("Ann", "a"),
        ),
        '[{"name": "f"}]',
    )
    assert from_line(to_line(dialogue)) == dialogue
    people = Dialogue("x", (Turn("Ann", "☺"),))
    assert (
        to_line(people) == '{"dialogue_id": "x", "turns": [{"speaker": "Ann", "utterance": "☺"}]}'
    )


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
def test_a_calls_arguments_have_several_names(key: str) -> None:
    call = {"name": "f", key: {"a": 1}, "id": "c1", "type": "tool_call"}
    for calls in ([call], [{"function": call, "id": "c1"}]):
        found = read_entry({"messages": [{"role": "assistant", "tool_calls": calls}]})
        assert found.turns == [assistant("", tool_calls=(ToolCall("f", '{"a": 1}', "c1"),))]
        assert found.unused == {}


def test_what_a_call_holds_besides_is_counted() -> None:
    calls = [{"function": {"name": "f", "note": "x"}, "result": 7, "extra": {}}]
    found = read_entry({"messages": [{"role": "assistant", "tool_calls": calls}]})
    assert found.unused == {"call.note": 1, "call.result": 1}


def test_a_flag_of_a_record_is_one_in_any_case() -> None:
    found = read_entry({"messages": [{"role": "user", "content": "Hello"}], "Train": False})
    assert [turn.weight for turn in found.turns] == [0.0]
    assert found.unused == {}


def test_a_masks_fault_says_what_its_values_mean() -> None:
    for key, meaning in (("mask", "1 (not trained) or 0 (trained)"), ("train", "1 (trained)")):
        message = {"role": "user", "content": "Hello", key: "x"}
        assert meaning in read_entry({"messages": [message]}).fault[1]
