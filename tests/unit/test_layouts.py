"""Each layout in each kind of file gives the same dialogues: the shape of a record tells it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from ruamel.yaml import YAML

from stages.prep import read_all
from tests.corpora import (
    Read,
    assistant,
    data_params,
    read_entry,
    read_file,
    system,
    user,
)
from tuning.corpus.catalogue import Catalogue
from tuning.corpus.duplicates import bands_for
from tuning.dialogue import Dialogue, Turn
from tuning.run.params import ColumnsParams

HELLO_HI = (Turn("A", "Hello"), Turn("B", "Hi ☺"))
USER_HELLO_HI = (user("Hello"), assistant("Hi ☺"))

CHITCHAT: dict[str, Any] = {
    "messages": [[{"text": "Hello", "sender": "A"}], [{"text": "Hi ☺", "sender": "B"}]]
}
TURNS: dict[str, Any] = {
    "turns": [{"speaker": "A", "text": "Hello"}, {"speaker": "B", "text": "Hi ☺"}]
}
PEOPLE: dict[str, Any] = {
    "blocks of messages": CHITCHAT,
    "turns of text": TURNS,
    "dialogue of utterance": {
        "dialogue": [
            {"speaker": "A", "utterance": "Hello", "act": 1},
            {"speaker": "B", "utterance": "Hi ☺", "act": 2},
        ],
        "services": ["Hotels_1"],
    },
    "dialog of content": {
        "dialog": [{"speaker": "A", "content": "Hello"}, {"speaker": "B", "content": "Hi ☺"}]
    },
    "utterances of text": {"utterances": TURNS["turns"]},
    "thread of body": {
        "thread": [{"author": "A", "body": "Hello"}, {"author": "B", "body": "Hi ☺"}]
    },
    "content of message and agent": {
        "content": [{"message": "Hello", "agent": "A"}, {"message": "Hi ☺", "agent": "B"}],
        "article_url": "x",
    },
    "messages": {"messages": [{"role": "A", "content": "Hello"}, {"role": "B", "content": "Hi ☺"}]},
    "messages of parts": {
        "messages": [
            {"role": "A", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "B", "content": ["Hi ☺"]},
        ]
    },
    "messages as JSON text": {
        "messages": '[{"role": "A", "content": "Hello"}, {"role": "B", "content": "Hi ☺"}]'
    },
    "keys in capitals": {
        "Messages": [{"Role": "A", "Content": "Hello"}, {" ROLE": "B", "CONTENT ": "Hi ☺"}]
    },
    "sharegpt": {
        "conversations": [{"from": "A", "value": "Hello"}, {"from": "B", "value": "Hi ☺"}]
    },
    "conversations of role and content": {
        "conversations": [{"role": "A", "content": "Hello"}, {"role": "B", "content": "Hi ☺"}]
    },
    "conversation of from and content": {
        "conversation": [{"from": "A", "content": "Hello"}, {"from": "B", "content": "Hi ☺"}],
        "model": "x-1",
    },
    "a dict of lists": {"turns": {"speaker": ["A", "B"], "utterance": ["Hello", "Hi ☺"]}},
    "a list under another name": {
        "transcript": [{"speaker": "A", "text": "Hello"}, {"speaker": "B", "text": "Hi ☺"}],
        "tags": ["x"],
    },
    "texts without speakers": {"thread": [{"text": "Hello", "condition": "sad"}, {"text": "Hi ☺"}]},
    "a list of messages": TURNS["turns"],
    "texts": ["Hello", "Hi ☺"],
    "texts under a key": {"dialog": ["Hello", "Hi ☺"], "emotion": [0, 4]},
    "texts and their speakers": {"dialog": ["Hello", "Hi ☺"], "speakers": ["A", "B"]},
    "texts as JSON text": {"dialog": '["Hello", "Hi ☺"]', "speakers": ["A", "B"]},
}
PAIRS: dict[str, Any] = {
    "prompt and response": {"prompt": "Hello", "response": "Hi ☺"},
    "prompt and completion": {"prompt": "Hello", "completion": "Hi ☺"},
    "alpaca": {"instruction": "Hello", "input": "", "output": "Hi ☺"},
    "alpaca without input": {"instruction": "Hello", "input": None, "output": "Hi ☺"},
    "query and response": {"query": "Hello", "response": "Hi ☺"},
    "question and answer in capitals": {"Question": "Hello", "Answer": "Hi ☺"},
    "user and bot": {"user": "Hello", "bot": "Hi ☺"},
    "pairs of both sides": {"conversation": [{"human": "Hello", "assistant": "Hi ☺"}]},
    "pairs of input and output": {"conversation": [{"input": "Hello", "output": "Hi ☺"}]},
    "pairs of role and text": {"conversation": [["user", "Hello"], ["assistant", "Hi ☺"]]},
    "marks": {"text": "### Human: Hello\n### Assistant: Hi ☺"},
    "marks of another kind": {"text": "\n\nHuman: Hello\n\nAssistant: Hi ☺"},
    "messages beside contexts": {
        "question": "Hello",
        "answer": "Hi ☺",
        "contexts": [{"text": "a page"}],
    },
}
LAYOUTS: dict[str, tuple[Any, tuple[Turn, ...]]] = {
    **{name: (record, HELLO_HI) for name, record in PEOPLE.items()},
    **{name: (record, USER_HELLO_HI) for name, record in PAIRS.items()},
}


def as_list(records: list[Any]) -> bytes:
    return json.dumps(records).encode()


def as_indented_list(records: list[Any]) -> bytes:
    return json.dumps(records, indent=2, ensure_ascii=False).encode()


def as_object(records: list[Any]) -> bytes:
    return json.dumps({f"key {n}": record for n, record in enumerate(records, start=1)}).encode()


def as_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def as_windows_lines(records: list[Any]) -> bytes:
    return b"\r\n".join(json.dumps(record).encode() for record in records)


def as_wrapped(records: list[Any]) -> bytes:
    return json.dumps({"version": 1, "data": records}).encode()


CONTAINERS: dict[str, tuple[str, Callable[[list[Any]], bytes], str]] = {
    "list": (".json", as_list, "record-{}"),
    "indented list": (".json", as_indented_list, "record-{}"),
    "object by id": (".json", as_object, "key {}"),
    "lines": (".jsonl", as_lines, "line-{}"),
    "windows lines": (".ndjson", as_windows_lines, "line-{}"),
    "lines named json": (".json", as_lines, "line-{}"),
    "lines named nothing": ("", as_lines, "line-{}"),
    "upper case": (".JSONL", as_lines, "line-{}"),
    "wrapped": (".json", as_wrapped, "record-{}"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


def read_content(path: Path, content: Any) -> Read:
    """What a JSON file with this content holds."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_file(path)


def prepared(path: Path) -> list[Dialogue]:
    """The dialogues that prep finds in a file or folder, in the input's order."""
    data = data_params()
    num_bands, _ = bands_for(data.near_duplicate_threshold)
    with Catalogue(path.parent / "scratch", num_bands) as catalogue:
        read_all(path, data, catalogue)
        catalogue.finish()
        assert not catalogue.faults
        return [catalogue.dialogue(index) for index in range(len(catalogue))]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_from_every_kind_of_file(
    tmp_path: Path, name: str, container: str
) -> None:
    record, turns = LAYOUTS[name]
    suffix, written_as, key = CONTAINERS[container]
    wanted = [Dialogue(key.format(number), turns) for number in (1, 2)]
    for compression, compressed in COMPRESSIONS.items():
        path = tmp_path / f"mine{suffix}{compression}"
        path.write_bytes(compressed(written_as([record, record])))
        assert read_file(path).dialogues == wanted


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_its_files_by_name_each_in_its_own_layout(tmp_path: Path, name: str) -> None:
    record, _ = LAYOUTS[name]
    folder = tmp_path / "mine"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.json").write_text("hidden")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(as_lines([TURNS])))
    (folder / "b" / "x.json").write_bytes(as_list([record]))
    (folder / "a.json.zst").write_bytes(zstandard.compress(as_object([CHITCHAT])))
    dialogues = prepared(folder)
    assert [d.dialogue_id for d in dialogues] == [
        "a.json.zst:key 1",
        "b/x.json:record-1",
        "c.jsonl.gz:line-1",
    ]
    assert {d.turns for d in dialogues} <= {HELLO_HI, USER_HELLO_HI}


def test_one_file_may_mix_layouts(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(as_lines([record for record, _ in LAYOUTS.values()]))
    assert [d.turns for d in read_file(path).dialogues] == [t for _, t in LAYOUTS.values()]


NO_RECORD = ("content of message and agent", "a list under another name")
"""In a file of its own, nothing tells such an object from a table of records by id."""
ONE_RECORD = [n for n, record in PEOPLE.items() if isinstance(record, dict) and n not in NO_RECORD]


@pytest.mark.parametrize("name", ONE_RECORD)
def test_a_file_may_be_one_dialogue(tmp_path: Path, name: str) -> None:
    path, record = tmp_path / "mine.json", PEOPLE[name]
    assert read_content(path, {"dialogue_id": "d1", **record}).dialogue == Dialogue("d1", HELLO_HI)
    assert read_content(path, record).dialogue == Dialogue("record-1", HELLO_HI)


def test_a_file_may_be_one_list_of_messages(tmp_path: Path) -> None:
    found = read_content(tmp_path / "mine.json", TURNS["turns"])
    assert found.dialogue == Dialogue("mine", HELLO_HI)


def test_one_dialogue_may_be_larger_than_a_piece(tmp_path: Path) -> None:
    text = "word " * 500_000
    turns = [{"speaker": "A", "text": text}, {"speaker": "B", "text": "Hi"}]
    found = read_content(tmp_path / "mine.json", {"id": 7, "turns": turns, "note": text})
    assert found.dialogue == Dialogue("7", (Turn("A", text.strip()), Turn("B", "Hi")))
    assert found.unused == {"note": 1}


def test_a_line_that_is_an_object_by_itself_is_one_dialogue_and_no_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(as_lines([TURNS]))
    assert read_file(path).dialogue == Dialogue("record-1", HELLO_HI)


def test_any_speakers_in_any_order() -> None:
    """Three speakers, one twice in a row, a system turn, and a monologue are dialogues."""
    turns = [("system", "Be kind."), ("A", "Hello"), ("A", "Anyone?"), ("B", "Hi"), ("C", "Hey")]
    three = read_entry({"messages": [{"role": role, "content": text} for role, text in turns]})
    assert three.turns == [system("Be kind."), *(Turn(*turn) for turn in turns[1:])]
    assert three.dialogue.speakers == ("system", "A", "B", "C")
    alone = read_entry({"messages": [{"role": "A", "content": "Hello"}]})
    assert alone.turns == [Turn("A", "Hello")]


def test_a_group_chat_may_have_hundreds_of_speakers() -> None:
    turns = [{"sender": f"member {n}", "msg": f"I am number {n}"} for n in range(400)]
    found = read_entry({"chat": turns})
    assert found.dialogue.speakers == tuple(f"member {n}" for n in range(400))
    assert found.turns[-1] == Turn("member 399", "I am number 399")


def test_any_script_is_kept_to_the_letter() -> None:
    texts = ["👩‍👩‍👧‍👦 🇳🇱", "今天天气怎么样?", "שלום‏ עולם", "e\u0301 नमस्ते"]
    assert [turn.utterance for turn in read_entry(texts).turns] == texts


def test_numbers_name_speakers() -> None:
    turns = [{"speaker": number, "text": f"text {number}"} for number in (0, 1, 0)]
    assert read_entry({"turns": turns}).turns == [
        Turn("0", "text 0"),
        Turn("1", "text 1"),
        Turn("0", "text 0"),
    ]


def test_strings_alternate_between_two_speakers() -> None:
    assert read_entry(["1", "2", " ", "4", "5"]).turns == [
        Turn("A", "1"),
        Turn("B", "2"),
        Turn("B", "4"),
        Turn("A", "5"),
    ]


def test_a_blocks_messages_are_lines_of_one_turn() -> None:
    blocks = [
        [],
        [{"text": "Hello ", "sender": "a"}, {"text": "\tHow are you?", "sender": "a"}],
        [{"text": "fine", "sender": "b"}],
        [{"text": "good", "sender": "b"}],
        [],
        [{"text": "so", "sender": "a"}, {"text": "no", "sender": "b"}],
    ]
    assert read_entry({"messages": blocks}).turns == [
        Turn("a", "Hello\nHow are you?"),
        Turn("b", "fine"),
        Turn("b", "good"),
        Turn("a", "so"),
        Turn("b", "no"),
    ]


def test_a_blocks_messages_of_two_weights_are_two_turns() -> None:
    block = [{"text": "so", "sender": "a", "weight": 0}, {"text": "no", "sender": "a"}]
    assert read_entry({"messages": [block]}).turns == [
        Turn("a", "so", weight=0.0),
        Turn("a", "no"),
    ]


def test_parts_of_a_message_are_lines_of_one_turn() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "input_text", "text": "two"}, "three"]
    read = read_entry({"messages": [{"role": "A", "content": parts}]})
    assert read.turns == [Turn("A", "one\ntwo\nthree")]
    [record] = read.records
    assert (record.num_raw_turns, record.num_raw_characters) == (1, len("one \ntwo\nthree"))


def test_a_text_that_looks_like_json_is_text() -> None:
    texts = ['[{"a": 1}]', "[ ]", '{"a": 1, "a": 2}', "[see above]"]
    turns = [{"role": "ann", "content": text} for text in texts]
    assert [turn.utterance for turn in read_entry(turns).turns] == texts
    assert [turn.utterance for turn in read_entry({"messages": turns}).turns] == texts


@pytest.mark.parametrize("key", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"instruction": "q", "output": "a"},
        {"text": "Human: q\nAssistant: a"},
    ],
)
def test_a_system_text_beside_the_messages_is_the_first_turn(
    record: dict[str, Any], key: str
) -> None:
    wanted = [user("q"), assistant("a")]
    assert read_entry({**record, key: "Be kind."}).turns == [system("Be kind."), *wanted]
    assert read_entry({key: "", **record}).turns == wanted
    assert read_entry({key: None, **record}).turns == wanted
    found = read_entry({key: {"text": "Be kind."}, **record})
    assert (found.turns, found.unused) == (wanted, {key: 1})


@pytest.mark.parametrize("key", ["dialogue_id", "dialog_id", "conversation_id", "chat_id", "uuid"])
def test_a_records_own_id_is_known_by_its_usual_names(key: str) -> None:
    messages = [{"from": "ann", "body": "hi"}, {"from": "bob", "body": "hello"}]
    read = read_entry({key: "c007", "messages": messages})
    assert (read.dialogue.dialogue_id, read.unused) == ("c007", {})


def test_a_system_text_beside_and_among_the_messages() -> None:
    messages = [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": "q"}]
    same = read_entry({"system": "Be kind.", "messages": messages})
    assert same.turns == [system("Be kind."), user("q")]
    assert read_entry({"system": "Be brief.", "messages": messages}).fault == (
        "wrong_layout",
        "a system text beside the messages and another one in them",
    )
    both = read_entry({"system": "", "system_prompt": "Be brief.", "messages": messages[1:]})
    assert both.turns == [system("Be brief."), user("q")]


def test_alpaca_with_input_history_and_system() -> None:
    record = {
        "instruction": "Name it.",
        "input": "a lamp",
        "output": "Lamp.",
        "system": "Be brief.",
        "history": [["Hello", "Hi"], ["And?", "Well."]],
        "source": "mine",
    }
    found = read_entry(record)
    assert found.turns == [
        system("Be brief."),
        user("Hello", weight=0.0),
        assistant("Hi", weight=0.0),
        user("And?", weight=0.0),
        assistant("Well.", weight=0.0),
        user("Name it.\na lamp"),
        assistant("Lamp."),
    ]
    assert found.unused == {"source": 1}


def test_a_history_may_be_messages_empty_or_nothing() -> None:
    pair = {"query": "q", "response": "a"}
    past = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert read_entry({**pair, "history": past}).turns == [
        user("x", weight=0.0),
        assistant("y", weight=0.0),
        user("q"),
        assistant("a"),
    ]
    nothing: Any
    for nothing in ([], None):
        assert read_entry({**pair, "history": nothing}).turns == [user("q"), assistant("a")]
    reason, message = read_entry({**pair, "history": ["x"]}).fault
    assert (reason, message) == (
        "wrong_layout",
        "'history': wanted a list of pairs, found list \"['x']\"",
    )


def test_what_an_instruction_is_about_stands_behind_it() -> None:
    found = read_entry({"instruction": "Who?", "context": "Ann sat.", "response": "Ann."})
    assert found.turns == [user("Who?\nAnn sat."), assistant("Ann.")]
    assert found.unused == {}


def test_pairs_with_a_system_text_in_each() -> None:
    pairs = [
        {"system": "Be kind.", "input": "q", "output": "a"},
        {"system": "Be kind.", "input": "r", "output": "b"},
        {"system": "Be rude.", "input": "s", "output": "c", "score": 1},
    ]
    found = read_entry({"conversation": pairs})
    assert found.turns == [
        system("Be kind."),
        *(user("q"), assistant("a"), user("r"), assistant("b")),
        system("Be rude."),
        *(user("s"), assistant("c")),
    ]
    assert found.unused == {"conversation.score": 1}


TOOLS = [{"type": "function", "function": {"name": "price_of"}}]


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ([{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}]),
        ([{"role": "user", "content": "q"}], "a"),
        ("q", [{"role": "assistant", "content": "a"}]),
    ],
)
def test_of_a_prompt_and_a_completion_only_the_completion_is_trained(
    prompt: Any, completion: Any
) -> None:
    found = read_entry({"prompt": prompt, "completion": completion, "tools": TOOLS, "note": 1})
    assert found.turns == [user("q", weight=0.0), assistant("a")]
    assert json.loads(found.dialogue.tools) == TOOLS
    assert found.unused == {"note": 1}


def test_marks_begin_a_line_and_any_other_text_is_content() -> None:
    text = "### Human: Say 'Human: x'.\nNow: do\n### Assistant: It is\n\n12: noon\n### human:ok"
    assert read_entry({"text": text}).turns == [
        user("Say 'Human: x'.\nNow: do"),
        assistant("It is\n\n12: noon"),
        user("ok"),
    ]


def test_personachat_is_its_last_history_and_the_last_candidate() -> None:
    first = {"candidates": ["no", "Hi"], "history": ["Hello"]}
    last = {"candidates": ["no", "nor", "Bye"], "history": ["Hello", "Hi", "Must go."]}
    turns = [user("Hello"), assistant("Hi"), user("Must go."), assistant("Bye")]
    persona = ["i like tea .", "i am tall ."]
    found = read_entry({"personality": persona, "utterances": [first, last]})
    assert found.turns == [system("i like tea .\ni am tall ."), *turns]
    assert found.passed_over == {"PersonaChat: candidates that are no reply": 3}
    without: Any
    for without in ({}, {"personality": []}, {"personality": None}):
        assert read_entry({**without, "utterances": [first, last]}).turns == turns


def test_the_persona_or_the_candidates_may_be_wrong() -> None:
    good = {"candidates": ["Hi"], "history": ["Hello"]}
    for record in (
        {"utterances": [good, 7]},
        {"utterances": [good, {"candidates": []}]},
        {"utterances": [good], "personality": "tall"},
        {"utterances": [good], "personality": [None]},
    ):
        assert read_entry(record).fault[0] == "wrong_layout"


WRAPPED: dict[str, Any] = {
    "data": {"data": [TURNS, TURNS]},
    "splits": {"train": [TURNS], "validation": [TURNS]},
    "conversations": {"conversations": [{"messages": TURNS["turns"]}, TURNS]},
    "twice": {"result": {"list": [TURNS, TURNS]}},
    "by id": {"data": {"x": TURNS, "y": TURNS}},
    "conversations by id": {"conversations": {"x": TURNS["turns"], "y": TURNS["turns"]}},
    "lists of messages": {"train": [TURNS["turns"], TURNS["turns"]]},
    "a list of wrappers": [{"data": [TURNS]}, {"data": [TURNS]}],
}
ABOUT = {"version": 1, "license": "mine", "note": None, "info": {"author": "me"}}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_records_are_found_in_a_wrapper(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    found = read_content(path, WRAPPED[name])
    assert [d.turns for d in found.dialogues] == [HELLO_HI, HELLO_HI]
    assert len({d.dialogue_id for d in found.dialogues}) == 2
    if isinstance(WRAPPED[name], dict):
        beside = read_content(path, {**ABOUT, **WRAPPED[name]})
        assert beside.dialogues == found.dialogues
        assert {*beside.unused, *beside.beside} - {"note"} == {"version", "license", "info"}


def test_a_wrappers_records_keep_their_ids_and_their_faults_are_their_own() -> None:
    read = read_entry({"data": [{"id": "x", **TURNS}, {"turns": [{"text": 7}]}, TURNS]})
    assert [r.where for r in read.records] == [f"mine.jsonl:1/data/{n}" for n in (1, 2, 3)]
    assert [r.dialogue and r.dialogue.dialogue_id for r in read.records] == [
        "x",
        None,
        "line-1/data/3",
    ]
    assert read.records[1].fault == "turn 1: 'text': wanted text, found int '7'"


@pytest.mark.parametrize(
    ("record", "num_turns", "num_characters", "kept"),
    [
        (TURNS, 2, len("Hello" + "Hi ☺"), len("Hello" + "Hi ☺")),
        ({"turns": []}, 0, 0, 0),
        ([], 0, 0, 0),
        ({"turns": [{"speaker": "a", "text": " a b\n"}]}, 1, 5, 3),
        ({"turns": [{"speaker": "a", "text": ""}]}, 1, 0, 0),
        (["x", " \t", "y "], 3, 5, 2),
        ({"messages": [{"role": "a", "content": []}]}, 1, 0, 0),
        (
            {
                "messages": [
                    [{"text": " ", "sender": "a"}, {"text": "hey", "sender": "a"}],
                    [{"text": "", "sender": "b"}, {"text": "\n\t", "sender": "b"}],
                    [],
                    [{"text": "anyone?", "sender": "a"}],
                ]
            },
            3,
            len(" \nhey") + len("\n\n\t") + len("anyone?"),
            len("hey" + "anyone?"),
        ),
    ],
)
def test_turns_and_characters_are_counted_as_they_came(
    record: Any, num_turns: int, num_characters: int, kept: int
) -> None:
    [found] = read_entry(record).records
    assert (found.num_raw_turns, found.num_raw_characters) == (num_turns, num_characters)
    assert found.dialogue and found.dialogue.num_characters == kept
    assert all(turn.utterance for turn in found.dialogue.turns)


def test_records_that_hold_nothing_hide_no_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    nothing = json.dumps({"turns": [], "note": "x" * 1000})
    path.write_text(f"\n{nothing}" * 1200 + f"\n{json.dumps(TURNS)}\n")
    dialogues = prepared(path)
    assert len(dialogues) == 1201
    assert dialogues[-1] == Dialogue("line-1202", HELLO_HI)


def test_the_more_usual_of_two_lists_is_read_and_the_other_is_named() -> None:
    both = {**TURNS, "messages": [{"role": "x", "content": "y"}], "prompt": "z"}
    found = read_entry(both)
    assert found.turns == [Turn("x", "y")]
    assert found.unused == {"turns": 1, "prompt": 1, "role 'x', no known one (data.roles)": 1}


def test_roles_that_nobody_knows_and_names_that_roles_hide_are_named_in_full() -> None:
    said = [("customer", "hi"), ("agent", "yes?"), ("customer", "help"), ("assistant", "of course")]
    items = [{"role": role, "content": text} for role, text in said]
    items[-1]["name"] = "Luna"
    found = read_entry({"messages": items})
    assert [turn.role for turn in found.turns] == [None, None, None, "assistant"]
    assert found.unused == {
        "role 'customer', no known one (data.roles)": 2,
        "role 'agent', no known one (data.roles)": 1,
        "message.name": 1,
    }
    known = read_entry({"messages": items}, roles={"customer": "user", "agent": "assistant"})
    assert [turn.role for turn in known.turns] == ["user", "assistant", "user", "assistant"]
    assert known.unused == {"message.name": 1}


CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


@pytest.mark.parametrize(
    "more", [{"channel": "email"}, {"channel": None}, {"text": "x", "replies": []}]
)
def test_other_keys_make_no_export_of_a_list_of_messages(more: dict[str, Any]) -> None:
    assert read_entry({"messages": CHAT, **more}).turns == [user("Hello"), assistant("Hi")]


def test_the_side_that_won_is_trained_only_if_that_is_said() -> None:
    record = {"conversation_a": CHAT[:1], "conversation_b": CHAT, "winner": "model_b"}
    reason, fault = read_entry(record).fault
    assert reason == "preference"
    advice = re.search(r'list: "(.*)"}', fault)
    assert advice
    columns = ColumnsParams(list=advice[1], who=None, text=None, role=None, id=None)
    assert read_entry(record, columns=columns).turns == [user("Hello"), assistant("Hi")]


def test_an_answer_beside_messages_is_refused_with_what_takes_it() -> None:
    record = {"messages": CHAT[:1], "response": "Hi"}
    reason, fault = read_entry(record).fault
    assert reason == "wrong_layout"
    with_it, without = re.findall(r'list: "?(.*?)"?}(?:;|$)', fault)
    for path, wanted in ((with_it, [user("Hello"), assistant("Hi")]), (without, [user("Hello")])):
        columns = ColumnsParams(list=path, who=None, text=None, role=None, id=None)
        assert read_entry(record, columns=columns).turns == wanted


@pytest.mark.parametrize(
    "record", [{"Frage": "Hello", "Antwort": "Hi"}, {"id": "7", "my q": "Hello", "a-1": "Hi"}]
)
def test_two_texts_of_unknown_names_are_refused_with_what_takes_them(
    record: dict[str, Any],
) -> None:
    reason, fault = read_entry(record).fault
    assert reason == "unknown_layout"
    advice = fault[fault.index("data.columns: ") + len("data.columns: ") :]
    columns = YAML(typ="safe").load(advice)
    nothing = dict.fromkeys(("list", "who", "text", "role", "id"))
    found = read_entry(record, columns=ColumnsParams.model_validate(nothing | columns))
    assert found.turns == [user("Hello"), assistant("Hi")]


def test_long_names_are_texts_and_a_list_of_pythons_is_called_so() -> None:
    fault = read_entry({"Hello there, how is it going today?": "Hi", "x": "y"}).fault[1]
    assert "content" not in fault
    python = read_entry({"messages": "[{'role': 'user', 'content': 'Hello'}]"}).fault[1]
    assert python.endswith("(Python's form; write it with json.dumps)")


def test_keys_may_be_spelled_as_in_javascript() -> None:
    said = [
        {"senderName": "Ann", "text": "Hello", "createdAt": 1},
        {"senderName": "Bo", "text": "Hi"},
    ]
    found = read_entry({"chatMessages": said})
    assert found.turns == [Turn("Ann", "Hello"), Turn("Bo", "Hi")]
    assert found.unused == {}


@pytest.mark.parametrize(
    ("key", "values", "speakers"),
    [
        ("direction", ["incoming", "outgoing"], ["incoming", "outgoing"]),
        ("is_from_me", [0, 1], ["other", "me"]),
        ("fromMe", [True, False], ["me", "other"]),
        ("speaker_idx", [4, 7], ["4", "7"]),
    ],
)
def test_who_speaks_may_be_a_direction_or_a_flag(
    key: str, values: list[Any], speakers: list[str]
) -> None:
    said = [{key: value, "text": "Hello"} for value in (*values, values[1])]
    found = read_entry({"messages": said})
    assert [turn.speaker for turn in found.turns] == [*speakers, speakers[1]]
    assert found.unused == {}


def test_replies_within_a_list_of_messages_are_no_dialogue() -> None:
    said = [{"author": "Ann", "body": "Hello", "replies": [{"author": "Bo", "body": "Hi"}]}]
    reason, fault = read_entry({"comments": [*said, {"author": "Cem", "body": "No"}]}).fault
    assert (reason, fault[:24]) == ("wrong_layout", "turn 1: found 'replies' ")
    assert read_entry({"comments": [said[0] | {"replies": []}]}).turns == [Turn("Ann", "Hello")]


def test_a_message_and_its_response_may_have_a_chat_history() -> None:
    past = [{"role": "USER", "message": "a"}, {"role": "CHATBOT", "message": "b"}]
    found = read_entry({"chat_history": past, "message": "c", "response": "d"})
    assert found.turns == [
        user("a", weight=0.0),
        assistant("b", weight=0.0),
        user("c"),
        assistant("d"),
    ]
    assert found.unused == {}


@pytest.mark.parametrize("answers", [{"a": ["x", "y"], "b": ["z", "x"]}, {"text": ["x", "y"]}])
def test_a_questions_answers_are_no_dialogues(answers: dict[str, list[str]]) -> None:
    assert read_entry({"question": "Who?", "answers": answers}).fault[0] == "unknown_layout"
