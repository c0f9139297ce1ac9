"""Each layout gives the same dialogues; what is not a dialogue is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.corpus.dialogue import Dialogue, Turn, read_dialogues, write_dialogues
from stages.corpus.formats import Record, raise_for_faults, read_records
from stages.errors import UserError

HELLO_HI = (Turn("a", "Hello"), Turn("b", "Hi ☺"))

CHITCHAT: dict[str, Any] = {
    "messages": [[{"text": "Hello", "sender": "a"}], [{"text": "Hi ☺", "sender": "b"}]]
}
TURNS: dict[str, Any] = {
    "turns": [{"speaker": "a", "text": "Hello"}, {"speaker": "b", "text": "Hi ☺"}]
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chitchat": ("chitchat", CHITCHAT),
    "turns-text": ("dialogues", TURNS),
    "dialogue-utterance": (
        "dialogues",
        {
            "dialogue": [
                {"speaker": "a", "utterance": "Hello"},
                {"speaker": "b", "utterance": "Hi ☺"},
            ]
        },
    ),
    "utterances-content": (
        "dialogues",
        {
            "utterances": [
                {"speaker": "a", "content": "Hello"},
                {"speaker": "b", "content": "Hi ☺"},
            ]
        },
    ),
    "messages": (
        "messages",
        {"messages": [{"role": "a", "content": "Hello"}, {"role": "b", "content": "Hi ☺"}]},
    ),
    "sharegpt": (
        "sharegpt",
        {"conversations": [{"from": "a", "value": "Hello"}, {"from": "b", "value": "Hi ☺"}]},
    ),
}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def only(path: Path, data_format: str = "auto") -> Record:
    _, records = read_records(path, data_format)
    assert len(records) == 1
    return records[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised_in_a_list_an_object_and_lines(
    tmp_path: Path, name: str
) -> None:
    layout, record = LAYOUTS[name]
    as_list = write(tmp_path / "list.json", [record, record])
    as_object = write(tmp_path / "object.json", {"x7": record, "x8": record})
    as_lines = tmp_path / "lines.jsonl"
    as_lines.write_text(f"{json.dumps(record)}\r\n\n{json.dumps(record)}", encoding="utf-8")

    for path, ids in (
        (as_list, ("record-1", "record-2")),
        (as_object, ("x7", "x8")),
        (as_lines, ("line-1", "line-3")),
    ):
        found, records = read_records(path)
        assert found == layout
        assert [r.dialogue for r in records] == [Dialogue(key, HELLO_HI) for key in ids]
        assert [r.fault for r in records] == [None, None]


def test_a_blocks_messages_are_lines_of_one_turn(tmp_path: Path) -> None:
    blocks = [
        [{"text": "Hello ", "sender": "a"}, {"text": "\tHow are you?", "sender": "a"}],
        [{"text": "fine", "sender": "b"}],
        [{"text": "good", "sender": "b"}],
        [],
        [{"text": "so", "sender": "a"}, {"text": "no", "sender": "b"}],
    ]
    record = only(write(tmp_path / "x.json", {"x": {"messages": blocks}}))
    assert record.dialogue == Dialogue(
        "x",
        (
            Turn("a", "Hello\nHow are you?"),
            Turn("b", "fine"),
            Turn("b", "good"),
            Turn("a", "so"),
            Turn("b", "no"),
        ),
    )


def test_empty_messages_are_counted_and_left_out(tmp_path: Path) -> None:
    blocks = [
        [{"text": " ", "sender": "a"}, {"text": "hey", "sender": "a"}],
        [{"text": "", "sender": "b"}, {"text": "\n\t", "sender": "b"}],
        [{"text": "anyone?", "sender": "a"}],
    ]
    record = only(write(tmp_path / "x.json", {"x": {"messages": blocks}}))
    assert record.dialogue == Dialogue("x", (Turn("a", "hey"), Turn("a", "anyone?")))
    assert record.num_empty_messages == 3


@pytest.mark.parametrize("key", ["dialogue_id", "id", "conversation_id"])
@pytest.mark.parametrize(("value", "expected"), [("d-1", "d-1"), (17, "17")])
def test_a_records_own_id_comes_before_its_place(
    tmp_path: Path, key: str, value: object, expected: str
) -> None:
    record = only(write(tmp_path / "x.json", {"place": {key: value, **TURNS}}))
    assert record.dialogue == Dialogue(expected, HELLO_HI)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_byte_order_mark_is_not_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = TURNS if name == "x.jsonl" else [TURNS]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert only(path).dialogue is not None


def test_line_separators_within_text_end_no_line_of_jsonl(tmp_path: Path) -> None:
    utterance = "one\u2028two\x85three"
    path = tmp_path / "x.jsonl"
    turns = [{"speaker": "a", "text": utterance}]
    path.write_text(json.dumps({"turns": turns}, ensure_ascii=False), encoding="utf-8")
    dialogue = only(path).dialogue
    assert dialogue is not None
    assert dialogue.turns == (Turn("a", utterance),)

    write_dialogues(tmp_path / "out.jsonl", [dialogue])
    assert list(read_dialogues(tmp_path / "out.jsonl")) == [dialogue]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b'["caf\xe9"]', r"x\.json: byte 5 is not UTF-8 .*; save the file as UTF-8"),
        ("x.json", b'[{"turns": [', r"x\.json: not JSON: .* at line 1, column 13"),
        ("x.json", b'[\n{"turns":\n}]', r"x\.json: not JSON: .* at line 3, column 1"),
        ("x.jsonl", b'{"turns": []}\n{"turns"\n', r"x\.jsonl:2: not JSON: .* at line 2, column 9"),
        ("x.json", b"", r"x\.json is empty"),
        ("x.json", b"\xef\xbb\xbf \n", r"x\.json is empty"),
        ("x.json", b"[]", r"x\.json holds no dialogue"),
        ("x.json", b"{}", r"x\.json holds no dialogue"),
        ("x.json", b'"text"', r"expected a list or an object of dialogues, found str"),
        ("x.json", b"3", r"expected a list or an object of dialogues, found int"),
        ("x.json", b'[{"story": 1}]', r"no known layout \(keys 'story'\); wanted one of the keys"),
        ("x.json", b'["Hello"]', r"no known layout \(str\); wanted one of the keys"),
        ("x.json", b"[" * 100_000, r"x\.json: not usable JSON: nested too deeply"),
        ("x.jsonl", b"\n" + b"[" * 100_000, r"x\.jsonl:2: not usable JSON: nested too deeply"),
        ("x.json", b'[{"id": ' + b"1" * 5000 + b', "turns": []}]', r"x\.json"),
    ],
)
def test_an_unusable_file_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_records(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; data\.path names one JSON or JSONL file"):
        read_records(tmp_path)
    with pytest.raises(UserError, match=r"not found; data\.path names the dialogue file"):
        read_records(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("layout", "record", "fault"),
    [
        ("dialogues", {"turns": [{"text": "x"}]}, "turn 1: wanted 'speaker', found neither"),
        (
            "dialogues",
            {"turns": [*TURNS["turns"], {"speaker": "a"}]},
            "turn 3: wanted 'text' or 'utterance' or 'content', found neither",
        ),
        (
            "messages",
            {"messages": [{"role": "a", "content": None}]},
            "turn 1: 'content': wanted text, found nothing",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "a", "value": 7}]},
            "turn 1: 'value': wanted text, found int '7'",
        ),
        (
            "dialogues",
            {"turns": [{"speaker": True, "text": "x"}]},
            "turn 1: 'speaker': wanted text, found bool 'True'",
        ),
        (
            "dialogues",
            {"turns": [{"speaker": "a", "text": "x\ud83d"}]},
            "turn 1: 'text' holds a lone surrogate, which is not text",
        ),
        ("dialogues", {"turns": ["Hello"]}, "turn 1: wanted an object, found str 'Hello'"),
        ("dialogues", {"turns": "Hello"}, "'turns': wanted a list, found str 'Hello'"),
        ("messages", {"turns": []}, "'messages': wanted a list, found nothing"),
        ("sharegpt", ["Hello"], "wanted an object with 'conversations', found list \"['Hello']\""),
        (
            "chitchat",
            {"messages": [*CHITCHAT["messages"], {"text": "x", "sender": "a"}]},
            "messages 3: wanted a list, found dict \"{'text': 'x', 'sender': 'a'}\"",
        ),
        (
            "chitchat",
            {"messages": [[{"text": "x"}]]},
            "messages 1: wanted 'sender', found neither",
        ),
    ],
)
def test_a_fault_says_where_it_is_and_what_was_wanted(
    tmp_path: Path, layout: str, record: Any, fault: str
) -> None:
    found = only(write(tmp_path / "x.json", [record]), layout)
    assert found.dialogue is None
    assert found.where == f"{tmp_path / 'x.json'}, record 1"
    assert found.fault == fault


@pytest.mark.parametrize("content", [[{"id": "\ud83d", **TURNS}], {"\ud83d": TURNS}])
def test_an_id_that_is_not_text_stops_no_other_record(tmp_path: Path, content: Any) -> None:
    """Whether it is a fault or replaced by the record's place: what is kept can be written."""
    record = only(write(tmp_path / "x.json", content))
    assert (record.dialogue is None) == (record.fault is not None)
    write_dialogues(tmp_path / "out.jsonl", [record.dialogue] if record.dialogue else [])


def test_an_id_that_an_object_repeats_is_not_dropped_silently(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": {json.dumps(TURNS)}, "a": {json.dumps(CHITCHAT)}}}')
    with pytest.raises(UserError, match="'a'"):
        raise_for_faults(path, read_records(path)[1])


def test_other_records_of_a_file_with_faults_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{json.dumps(TURNS)}\n{{"turns": 5}}\n{json.dumps(TURNS)}\n')
    _, records = read_records(path)
    assert [r.dialogue and r.dialogue.dialogue_id for r in records] == ["line-1", None, "line-3"]
    with pytest.raises(UserError) as caught:
        raise_for_faults(path, records)
    assert str(caught.value) == (
        f"{path}: 1 of 3 records are not dialogues:\n"
        f"  {path}:2: 'turns': wanted a list, found int '5'\n"
        "Mend them, or drop and count them with data.on_invalid: skip."
    )
    raise_for_faults(path, [record for record in records if record.dialogue])


@pytest.mark.parametrize(
    ("num_faults", "rest"), [(20, None), (21, "  … and 1 more"), (50, "  … and 30 more")]
)
def test_faults_beyond_twenty_are_counted(
    tmp_path: Path, num_faults: int, rest: str | None
) -> None:
    path = write(tmp_path / "x.json", [TURNS] + [{"turns": None}] * num_faults)
    _, records = read_records(path)
    with pytest.raises(UserError) as caught:
        raise_for_faults(path, records)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: {num_faults} of {num_faults + 1} records are not dialogues:"
    assert lines[1] == f"  {path}, record 2: 'turns': wanted a list, found nothing"
    assert lines[20] == f"  {path}, record 21: 'turns': wanted a list, found nothing"
    assert lines[21:-1] == ([rest] if rest else [])


def test_a_forced_layout_is_not_guessed_again(tmp_path: Path) -> None:
    both = {**TURNS, "messages": [{"role": "x", "content": "y"}]}
    path = write(tmp_path / "x.json", [both])
    assert only(path).dialogue == Dialogue("record-1", (Turn("x", "y"),))
    assert only(path, "dialogues").dialogue == Dialogue("record-1", HELLO_HI)

    path = write(tmp_path / "y.json", [{"note": "no dialogue"}, TURNS])
    layout, records = read_records(path, "dialogues")
    assert layout == "dialogues"
    assert records[0].fault == "'turns': wanted a list, found nothing"
    assert records[1].dialogue == Dialogue("record-2", HELLO_HI)


def test_a_chitchat_file_is_recognised_where_its_first_dialogue_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"empty": {"messages": []}, "x": CHITCHAT})
    layout, records = read_records(path)
    assert layout == "chitchat"
    assert [record.dialogue for record in records] == [
        Dialogue("empty", ()),
        Dialogue("x", HELLO_HI),
    ]
