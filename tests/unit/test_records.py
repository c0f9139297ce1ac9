"""A record's ids, groups, sessions, columns and faults: what it says of itself, what is wrong."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import (
    Read,
    assistant,
    data_params,
    prepare_records,
    read_entry,
    read_file,
    system,
    user,
)
from tuning.corpus.faults import REASONS
from tuning.corpus.records import Record, RecordReader
from tuning.dialogue import Turn
from tuning.reading.pieces import RawRecord
from tuning.run.errors import UserError
from tuning.run.params import ColumnsParams

TURNS: dict[str, Any] = {
    "turns": [{"speaker": "A", "text": "Hello"}, {"speaker": "B", "text": "Hi ☺"}]
}
HELLO_HI = [Turn("A", "Hello"), Turn("B", "Hi ☺")]
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def read_text(text: str | bytes) -> Record:
    """What a line that may be no JSON becomes."""
    [record] = RecordReader(data_params())(RawRecord("mine.jsonl:1", "line-1", text))
    return record


def turns(*items: Any) -> dict[str, Any]:
    return {"turns": list(items)}


def messages(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


# Ids


@pytest.mark.parametrize("key", ["dialogue_id", "id", "conversation_id", "uuid", "c_id"])
@pytest.mark.parametrize(("value", "wanted"), [("d-1", "d-1"), (17, "17"), (0, "0")])
def test_a_records_own_id_comes_before_its_place(key: str, value: object, wanted: str) -> None:
    found = read_entry({key: value, **TURNS})
    assert found.dialogue.dialogue_id == wanted
    assert found.unused == {}


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"], {}, ""])
def test_what_cannot_be_an_id_is_passed_over(value: object) -> None:
    found = read_entry({"dialogue_id": value, "conversation_id": "c", **TURNS})
    assert found.dialogue.dialogue_id == "c"
    assert read_entry({"dialogue_id": value, **TURNS}).dialogue.dialogue_id == "line-1"


def test_ids_that_begin_anew_in_each_file_are_told_apart() -> None:
    records = [
        {"id": n % 20, "turns": [{"speaker": "a", "text": f"the words of number {n} of forty"}]}
        for n in range(40)
    ]
    prepared = prepare_records(records, near_duplicate_threshold=1.0)
    assert prepared.ledger["num_renamed"] == 20
    ids = [dialogue.dialogue_id for dialogue in prepared.kept]
    assert sorted(ids) == sorted([f"{n}" for n in range(20)] + [f"{n}~2" for n in range(20)])


# Groups


@pytest.mark.parametrize(
    ("fields", "group_by", "groups"),
    [
        ({}, None, ()),
        ({"topic": "sea"}, "topic", ("sea",)),
        ({"topic": 7}, "topic", ("7",)),
        ({"topic": ["sea", 7, "sea"]}, "topic", ("sea", "7")),
        ({"about": {"topic": "sea"}}, "about.topic", ("sea",)),
        ({"id": "abc_57"}, "before(id, '_')", ("abc",)),
        ({"id": "abc"}, "before(id, '_')", ("abc",)),
        ({}, "speakers", ("A", "B")),
    ],
)
def test_groups_are_a_fields_values_or_the_speakers(
    fields: dict[str, Any], group_by: str | None, groups: tuple[str, ...]
) -> None:
    found = read_entry({**TURNS, **fields}, group_by=group_by)
    assert found.dialogues[0].turns == tuple(HELLO_HI)
    assert found.records[0].groups == groups
    assert found.unused == {}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (TURNS, "nothing"),
        ({**TURNS, "topic": None}, "nothing"),
        ({**TURNS, "topic": True}, "bool 'True'"),
        ({**TURNS, "topic": 0.5}, "float '0.5'"),
        ({**TURNS, "topic": []}, "list '[]'"),
        ({**TURNS, "topic": ["sea", None]}, "list \"['sea', None]\""),
        (["Hello", "Hi"], "nothing"),
    ],
)
def test_every_dialogue_must_name_its_group(record: Any, found: str) -> None:
    assert read_entry(record, group_by="topic").fault == (
        "missing_group",
        f"'topic' (data.group_by): wanted text or a list of texts, found {found}",
    )


def test_a_group_that_cannot_be_asked_for_is_a_fault() -> None:
    reason, message = read_entry({"id": 3, **TURNS}, group_by="before(id, '_')").fault
    assert reason == "wrong_layout"
    assert message.startswith("data.group_by: In function before(), invalid type for value: 3")


@pytest.mark.parametrize("key", ["list", "who", "text", "role", "id"])
def test_an_expression_that_is_none_is_refused_before_anything_is_read(key: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.columns\.{key}: 'a\[' is no JMESPath expression"):
        RecordReader(data_params(columns=columns(**{key: "a["})))
    with pytest.raises(UserError, match=r"^data\.group_by: 'a b' is no JMESPath expression"):
        RecordReader(data_params(group_by="a b"))


# Turns' numbers


@pytest.mark.parametrize("key", ["turn_idx", "turn_id", "Message_Index", "seq"])
@pytest.mark.parametrize("number", [int, str])
def test_messages_that_say_their_turns_are_in_that_order(key: str, number: type) -> None:
    said = [{"speaker": "A", "text": f"{n}", key: number(n)} for n in (2, 10, 1)]
    found = read_entry(turns(*said))
    assert [turn.utterance for turn in found.turns] == ["1", "2", "10"]
    assert found.unused == {}


def test_turns_that_share_a_number_stand_as_they_came() -> None:
    said = [{"speaker": who, "text": who, "turn_id": n // 2} for n, who in enumerate("ABCD")]
    assert [turn.speaker for turn in read_entry(turns(*said)).turns] == [*"ABCD"]
    reason, fault = read_entry(turns(*said, said[0])).fault
    assert (reason, fault[:16]) == ("wrong_layout", "turn: 'turn_id' ")


@pytest.mark.parametrize("odd", [None, True, "x", 1.5])
def test_numbers_that_not_all_turns_have_order_nothing(odd: Any) -> None:
    said = [{"speaker": "A", "text": f"{n}", "turn_idx": n} for n in (2, odd, 1)]
    assert [turn.utterance for turn in read_entry(turns(*said)).turns] == ["2", f"{odd}", "1"]


# Sessions


def log(*hours: float, **more: Any) -> dict[str, Any]:
    """A chat with messages at these hours."""
    return {
        "name": "the chat",
        "type": "personal_chat",
        "id": 5,
        "messages": [
            {
                "id": number,
                "type": "message",
                "date": f"{datetime(2024, 1, 1) + timedelta(hours=hour):%Y-%m-%dT%H:%M:%S}",
                "from": "Mira" if number % 2 else "Tobi",
                "from_id": f"user{number % 2}",
                "text": f"text {number}",
            }
            for number, hour in enumerate(hours)
        ],
        **more,
    }


def cut(read: Read) -> dict[str, list[str]]:
    return {d.dialogue_id: [t.utterance for t in d.turns] for d in read.dialogues}


def test_a_chat_is_cut_where_nobody_writes_for_long() -> None:
    chat = log(0, 1, 13, 26, 26.5)
    assert cut(read_entry(chat, session_gap_hours=12.0)) == {
        "5/1": ["text 0", "text 1", "text 2"],
        "5/2": ["text 3", "text 4"],
    }
    assert cut(read_entry(chat, session_gap_hours=13.5)) == {"5": [f"text {n}" for n in range(5)]}
    assert list(cut(read_entry(chat, session_gap_hours=None))) == ["5"]


def test_a_long_dialogue_is_cut_into_parts_of_so_many_turns() -> None:
    chat = log(0, 1, 2, 26, 26.5)
    assert cut(read_entry(chat, session_gap_hours=12.0, session_turns=2)) == {
        "5/1": ["text 0", "text 1"],
        "5/2": ["text 2"],
        "5/3": ["text 3", "text 4"],
    }
    people = turns(*({"speaker": "a", "text": f"{n}"} for n in range(3001)))
    parts = read_entry(people, session_turns=1000).dialogues
    assert [(d.dialogue_id, len(d.turns)) for d in parts] == [
        ("line-1/1", 1000),
        ("line-1/2", 1000),
        ("line-1/3", 1000),
        ("line-1/4", 1),
    ]
    assert [t.utterance for d in parts for t in d.turns] == [f"{n}" for n in range(3001)]


def test_every_part_of_a_dialogue_has_its_system_text_and_its_tools() -> None:
    said = [{"role": "system", "content": "Be \x01kind."}, *[USER, ASSISTANT] * 2, USER]
    found = read_entry({**messages(*said), "tools": [{"name": "f"}]}, session_turns=2)
    for dialogue, wanted in zip(found.dialogues, [2, 2, 1], strict=True):
        assert dialogue.turns == (system("Be kind."), *[user("q"), assistant("a")][:wanted])
        assert dialogue.tools == '[{"name": "f"}]'
    assert len(read_entry(messages(*said[:3]), session_turns=2).dialogues) == 1
    alone = read_entry(messages(said[0]), session_turns=2)
    assert alone.turns == [system("Be kind.")]


def test_only_logs_of_chats_are_cut_by_time() -> None:
    rows = [{**USER, "timestamp": 0}, {**ASSISTANT, "timestamp": 1_000_000}]
    assert read_entry(messages(*rows), session_gap_hours=1.0).turns == [user("q"), assistant("a")]


def test_times_that_are_none_cut_nothing() -> None:
    chat = log(0, 20)
    for time in (None, "yesterday", 10**400, float("nan"), True):
        chat["messages"][1]["date"] = time
        assert list(cut(read_entry(chat, session_gap_hours=12.0))) == ["5"]


# Control characters


def test_control_characters_are_taken_out_and_counted() -> None:
    read = read_entry(["a\x01b\x7f", "c\x85\t\n d"])
    assert [turn.utterance for turn in read.turns] == ["ab", "c\x85\t\n d"]
    [record] = read.records
    assert (record.num_control, record.num_raw_characters) == (2, 4 + 6)


def test_thoughts_hold_no_control_characters_either() -> None:
    read = read_entry(messages(USER, {**ASSISTANT, "reasoning_content": "hm\x02m"}))
    assert read.turns[1] == assistant("a", reasoning="hmm")


# Columns


def columns(**paths: str) -> ColumnsParams:
    nothing = dict.fromkeys(("list", "who", "text", "role", "id"))
    return ColumnsParams.model_validate(nothing | paths)


def test_columns_say_where_everything_is() -> None:
    record = {
        "meta": {"key": 12},
        "chatter": {"lines": [{"p": {"nick": "Ann"}, "t": ["Hello", "x"], "content": "no"}]},
        "system": "Be kind.",
        "topic": "sea",
    }
    found = read_entry(
        record, columns=columns(list="chatter.lines", who="p.nick", text="t[0]", id="meta.key")
    )
    assert found.dialogue.dialogue_id == "12"
    assert found.turns == [system("Be kind."), Turn("Ann", "Hello")]
    assert found.unused == {"message.content": 1, "topic": 1}


def test_columns_may_name_fields_alone() -> None:
    lines = [{"nick": "Ann", "line": "Hello"}, {"nick": "Bot", "line": "Hi"}]
    by = columns(who="nick", text="line")
    wanted = [Turn("Ann", "Hello"), assistant("Hi")]
    assert read_entry({"turns": lines}, columns=by).turns == wanted
    assert read_entry({"spoken": lines}, columns=by).turns == wanted
    assert read_entry(lines, columns=by).turns == wanted
    assert read_entry({"turns": json.dumps(lines)}, columns=by).turns == wanted


def test_columns_tell_a_role_from_a_name() -> None:
    lines = [{"name": "Ann", "side": "customer", "text": "q"}, {"side": "gpt", "text": "a"}]
    found = read_entry({"turns": lines}, columns=columns(role="side"), roles={"Customer ": "user"})
    assert found.turns == [Turn("Ann", "q", "user"), assistant("a")]


def test_a_column_may_be_a_text_with_marks() -> None:
    found = read_entry(
        {"log": {"all": "A chat.\nHuman: q\nAI: a"}}, columns=columns(list="log.all")
    )
    assert found.turns == [system("A chat."), user("q"), assistant("a")]


def test_columns_that_lead_nowhere_are_a_fault() -> None:
    assert read_entry(TURNS, columns=columns(list="lines")).fault == (
        "wrong_layout",
        "data.columns.list: wanted a list, found nothing",
    )
    assert read_entry(TURNS, columns=columns(text="words")).fault[0] == "no_text"
    assert read_entry(TURNS, columns=columns(who="nick")).fault[0] == "missing_speaker"
    assert read_entry(TURNS, columns=columns(list="first(turns)")).fault == (
        "wrong_layout",
        "data.columns.list: Unknown function: first()",
    )
    assert read_entry(TURNS, columns=columns(id="turns")).fault[0] == "wrong_layout"


# Preferences

PREFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "texts": (
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "[{role: 'user', content: prompt}, {role: 'assistant', content: chosen}]",
    ),
    "messages": ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": []}, "[prompt, chosen][]"),
    "whole dialogues": ({"chosen": [USER, ASSISTANT], "rejected": [USER]}, "chosen"),
    "whole dialogues beside their prompt": (
        {"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": [USER]},
        "chosen",
    ),
    "texts with marks": ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": ""}, "chosen"),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        "[conversations, [chosen]][]",
    ),
    "an answer behind messages": (
        {"messages": [USER], "chosen": "a", "rejected": "b"},
        "[messages, [{role: 'assistant', content: chosen}]][]",
    ),
    "labels": (
        {"prompt": "q", "completion": "a", "label": True},
        "label && [{role: 'user', content: prompt}, {role: 'assistant', content: completion}]",
    ),
    "labels that are numbers": (
        {"prompt": [USER], "completion": [ASSISTANT], "label": 1},
        "label == `1` && [prompt, completion][]",
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_is_refused_with_the_setting_that_takes_it(name: str) -> None:
    record, setting = PREFERENCES[name]
    reason, message = read_entry(record).fault
    assert reason == "preference"
    assert message.endswith(f'data.columns: {{list: "{setting}"}}')
    assert read_entry(record, columns=columns(list=setting)).turns == [user("q"), assistant("a")]


@pytest.mark.parametrize("label", [False, 0])
def test_an_answer_that_is_labelled_as_bad_is_never_trained(label: object) -> None:
    record = {"prompt": "q", "completion": "bad", "label": label}
    reason, message = read_entry(record).fault
    assert reason == "preference"
    setting = message.partition('list: "')[2].removesuffix('"}')
    found = read_entry(record, columns=columns(list=setting))
    assert found.records == []
    assert found.passed_over == {"records of which data.columns.list is false": 1}


def test_a_label_of_something_else_is_no_preference() -> None:
    found = read_entry({"prompt": "q", "completion": "a", "label": "greeting"})
    assert (found.turns, found.unused) == ([user("q"), assistant("a")], {"label": 1})


# Keys that are not used


def test_a_key_that_is_not_used_is_counted_once_for_each_record_and_message() -> None:
    said = [{**USER, "mood": "x", "tags": []}, {**ASSISTANT, "mood": "y"}]
    found = read_entry({**messages(*said), "source": "x", "note": None, "score": 0})
    assert found.unused == {"message.mood": 2, "source": 1, "score": 1}


def test_two_texts_that_differ_are_one_used_and_one_not() -> None:
    said = {"sender": "human", "text": "x", "content": "y"}
    found = read_entry({"chat_messages": [said]})
    assert (found.turns, found.unused) == ([user("y")], {"message.text": 1})
    same = read_entry({"chat_messages": [{**said, "content": [{"type": "text", "text": "x"}]}]})
    assert (same.turns, same.unused) == ([user("x")], {})
    nothing: Any
    for nothing in ("", [], None):
        empty = read_entry({"chat_messages": [{**said, "content": nothing}]})
        assert (empty.turns, empty.unused) == ([user("x")], {})


# Faults

MISSING_SPEAKER = {
    "turn 2: wanted 'speaker' as in others, found 'text'": turns(
        {"speaker": "A", "text": "x"}, {"text": "x"}
    ),
    "turn 1: wanted 'role' as in others, found 'content'": messages({"content": "x"}, USER),
    "turn 1: 'speaker': wanted a name, found nothing": turns({"speaker": None, "text": "x"}),
    "turn 1: 'speaker': wanted a name, found str ' '": turns({"speaker": " ", "text": "x"}),
}
NO_TEXT = {
    "turn 3: wanted 'content' or 'value' or 'text' or 'utterance' or 'message', found 'speaker'": (
        turns(*TURNS["turns"], {"speaker": "A"})
    ),
    "turn 1: 'content': wanted text, found nothing": messages({"role": "a", "content": None}),
    "turn 2: 'text': wanted text, found nothing": {"dialog": {"text": ["a", None]}},
    "'response': wanted text, found nothing": {"prompt": "a", "response": None},
    "'prompt': wanted text, found nothing": {"prompt": None, "response": "x"},
}
NOT_TEXT = {
    "turn 1: 'speaker': wanted text, found bool 'True'": turns({"speaker": True, "text": "x"}),
    "turn 1: 'speaker': wanted text, found list \"['a']\"": turns({"speaker": ["a"], "text": "x"}),
    "turn 1: 'text' holds a lone surrogate, which is not text": turns(
        {"speaker": "A", "text": "x\ud83d"}
    ),
    "turn 1: 'speaker' holds the character NUL, which is not text": turns(
        {"speaker": "A\0", "text": "x"}
    ),
    "the id holds a lone surrogate, which is not text": {"id": "\ud83d", **TURNS},
    "'system' holds the character NUL, which is not text": {"system": "\0", **TURNS},
    "'tools' holds a lone surrogate, which is not text": {"tools": "\ud83d", **TURNS},
    "turn 1: 'content': wanted parts of type 'text', found str 'image_url'": messages(
        {"role": "a", "content": [{"type": "image_url"}]}
    ),
    "turn 1: 'content': wanted text, found nothing": messages(
        {"role": "a", "content": [{"type": "text"}]}
    ),
    "turn 1: 'value': wanted text, found int '7'": {"conversations": [{"from": "a", "value": 7}]},
    "turn 1: 'value': wanted text, found dict \"{'a': 1}\"": {
        "conversations": [{"from": "a", "value": {"a": 1}, "text": "x"}]
    },
    "turn 1 holds the character NUL, which is not text": ["a\0"],
    "turn 2: 'tool_calls': wanted a list, found str 'f'": messages(
        USER, {**ASSISTANT, "tool_calls": "f"}
    ),
    "turn 2: wanted a call with a 'name', found dict \"{'arguments': {}}\"": messages(
        USER, {**ASSISTANT, "tool_calls": [{"arguments": {}}]}
    ),
}
WRONG_LAYOUT = {
    "turn 2: wanted an object, found str 'Hello'": turns({"speaker": "a", "text": "x"}, "Hello"),
    "turn 2: wanted an object, found nothing": turns({"speaker": "a", "text": "x"}, None),
    "turn 2: wanted an object, found int '3'": turns(*TURNS["turns"][:1], 3),
    "'messages': wanted a list, found str '[{\"role\":'": {"messages": '[{"role":'},
    "'turns': wanted lists of one length, found [1, 2]": {
        "turns": {"speaker": ["a"], "text": ["x", "y"]}
    },
    "conversation 2: wanted both sides, found dict \"{'human': 'x'}\"": {
        "conversation": [{"human": "q", "assistant": "a"}, {"human": "x"}]
    },
    "turn 1: found list \"['Hi there', 'Hello']\"; wanted a speaker and a text, of which nothing "
    "tells that the first is a speaker: none is a role, or stands there twice": {
        "conversation": [["Hi there", "Hello"], ["And you", "Well"]]
    },
}
WEIGHT = {
    "turn 1: 'weight': wanted 0 (not trained), or a number from 1e-06 to 1,000,000, found float "
    "'-0.5'": messages({**ASSISTANT, "weight": -0.5}),
    "turn 1: 'loss_weight': wanted 0 (not trained), or a number from 1e-06 to 1,000,000, found str "
    "'high'": messages({**ASSISTANT, "loss_weight": "high"}),
    "turn 1: 'train': wanted 1 (trained) or 0 (not), found float '0.5'": messages(
        {**ASSISTANT, "train": 0.5}
    ),
    "turn 1: 'loss': wanted 1 (trained) or 0 (not), found str 'no'": messages(
        {**ASSISTANT, "loss": "no"}
    ),
    "turn 1: 'mask': wanted 1 (not trained) or 0 (trained), found list '[1]'": messages(
        {**ASSISTANT, "mask": [1]}
    ),
}
REPEATED_KEY = {"the key 'a' stands twice in one object": {"messages": '[{"a": 1, "a": 2}]'}}
FAULTS: list[tuple[str, str, Any]] = [
    (reason, fault, record)
    for reason, faults in (
        ("missing_speaker", MISSING_SPEAKER),
        ("no_text", NO_TEXT),
        ("not_text", NOT_TEXT),
        ("wrong_layout", WRONG_LAYOUT),
        ("weight", WEIGHT),
        ("repeated_key", REPEATED_KEY),
    )
    for fault, record in faults.items()
]


@pytest.mark.parametrize(("reason", "fault", "record"), FAULTS)
def test_a_fault_says_where_it_is_and_what_was_wanted(reason: str, fault: str, record: Any) -> None:
    assert read_entry(record).records == [Record("mine.jsonl:1", reason=reason, fault=fault)]
    assert reason in REASONS


@pytest.mark.parametrize(
    ("record", "found", "start"),
    [
        ({"story": 1, "title": 2}, "'story', 'title'", "list: …"),
        ({"lines": [1], "title": 2}, "'lines', 'title'", "list: lines"),
        ("Hello", "str 'Hello'", "list: …"),
        (None, "nothing", "list: …"),
        ({}, "nothing", "list: …"),
        ({"turns": None}, "'turns'", "list: …"),
        ({"text": "no marks at all"}, "'text'", "list: …"),
        ({"text": "Human: only one"}, "'text'", "list: …"),
        ([["Hello", 3]], "list \"[['Hello', 3]]\"", "list: …"),
    ],
)
def test_a_layout_that_is_not_known_is_named_by_what_was_found(
    record: Any, found: str, start: str
) -> None:
    reason, message = read_entry(record).fault
    assert reason == "unknown_layout"
    assert message.startswith(f"its layout is not known: found {found}; wanted a list of messages")
    assert message.endswith(f"data.columns: {{{start}, who: …, text: …}}")


@pytest.mark.parametrize("depth", range(900, 1000))
def test_no_depth_of_nesting_is_too_deep_for_the_message_about_it(depth: int) -> None:
    """What can just be parsed must also be described."""
    nested = ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)
    for text in nested:
        for line in (text, f'{{"turns": {text}}}', f'[{{"role": "a", "content": {text}}}]'):
            assert read_text(line).reason in REASONS


def test_lists_within_lists_that_all_hold_records_are_no_dialogues_without_end() -> None:
    text = "[" + '[{"turns": ["a"]}, ' * 400 + '{"turns": ["a"]}' + "]" * 401
    records = RecordReader(data_params())(RawRecord("mine:1", "x", text))
    assert {record.reason for record in records} <= {"", "wrong_layout", "unknown_layout"}


def test_what_a_message_quotes_is_short() -> None:
    long = "x" * 1_000_000
    for record in ({long: 1}, turns({long: 1}), turns({"speaker": long, "text": 7}), long):
        assert 0 < len(read_entry(record).fault[1]) < 300
    assert 0 < len(read_text(f'{{"{long}": 1, "{long}": 2}}').fault) < 200


def test_a_repeated_key_is_found_at_once_among_very_many() -> None:
    keys = ", ".join(f'"key {n}": 0' for n in range(100_000))
    record = read_text(f'{{{keys}, "key 99999": 1}}')
    assert record.fault == "the key 'key 99999' stands twice in one object"


def test_what_begins_with_the_newest_is_turned_round() -> None:
    messages = [
        {"author": "ann", "content": str(n), "created_at": 1_700_000_000 + n} for n in range(3)
    ]
    for listed in (messages, messages[::-1]):
        assert [turn.utterance for turn in read_entry({"messages": listed}).turns] == [
            "0",
            "1",
            "2",
        ]


def test_rows_that_name_no_conversation_are_a_log(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"author": "ab"[n % 2], "message": f"m{n}", "timestamp": 1_700_000_000 + n + n // 5 * 10**5}
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [len(d.turns) for d in read_file(path, session_gap_hours=12.0).dialogues] == [5] * 4
    with_key = [row | {"thread_id": 1} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in with_key))
    assert [len(d.turns) for d in read_file(path, session_gap_hours=12.0).dialogues] == [20]
