"""Each layout in each kind of file gives the same dialogues; what is not one says what it lacks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tuning.corpus.formats import REASONS, Record, parse_record, recognise

from stages.prep import read_all
from tests.corpora import data_params
from tuning.corpus.catalogue import Catalogue
from tuning.corpus.duplicates import bands_for
from tuning.dialogue import Dialogue, Turn
from tuning.reading.pieces import RawRecord, read_pieces
from tuning.run.errors import UserError
from tuning.run.params import Layout

HELLO_HI = (Turn("A", "Hello"), Turn("B", "Hi ☺"))
USER_HELLO_HI = (Turn("user", "Hello"), Turn("assistant", "Hi ☺"))

CHITCHAT: dict[str, Any] = {
    "messages": [[{"text": "Hello", "sender": "A"}], [{"text": "Hi ☺", "sender": "B"}]]
}
TURNS: dict[str, Any] = {
    "turns": [{"speaker": "A", "text": "Hello"}, {"speaker": "B", "text": "Hi ☺"}]
}
LAYOUTS: dict[str, tuple[Layout, Any]] = {
    "chitchat": ("chitchat", CHITCHAT),
    "turns of text": ("dialogues", TURNS),
    "dialogue of utterance": (
        "dialogues",
        {
            "dialogue": [
                {"speaker": "A", "utterance": "Hello", "act": 1},
                {"speaker": "B", "utterance": "Hi ☺", "act": 2},
            ],
            "services": ["Hotels_1"],
        },
    ),
    "dialog of content": (
        "dialogues",
        {"dialog": [{"speaker": "A", "content": "Hello"}, {"speaker": "B", "content": "Hi ☺"}]},
    ),
    "utterances of text": ("dialogues", {"utterances": TURNS["turns"]}),
    "messages": (
        "messages",
        {"messages": [{"role": "A", "content": "Hello"}, {"role": "B", "content": "Hi ☺"}]},
    ),
    "messages of parts": (
        "messages",
        {
            "messages": [
                {"role": "A", "content": [{"type": "text", "text": "Hello"}]},
                {"role": "B", "content": "Hi ☺", "name": "Bea"},
            ]
        },
    ),
    "sharegpt": (
        "sharegpt",
        {"conversations": [{"from": "A", "value": "Hello"}, {"from": "B", "value": "Hi ☺"}]},
    ),
    "strings": ("strings", ["Hello", "Hi ☺"]),
    "strings under a key": ("strings", {"dialog": ["Hello", "Hi ☺"], "emotion": [0, 4]}),
    "prompt and response": ("prompts", {"prompt": "Hello", "response": "Hi ☺"}),
    "prompt and completion": ("prompts", {"prompt": "Hello", "completion": "Hi ☺"}),
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


CONTAINERS: dict[str, tuple[str, Callable[[list[Any]], bytes], str]] = {
    "list": (".json", as_list, "record-{}"),
    "indented list": (".json", as_indented_list, "record-{}"),
    "object by id": (".json", as_object, "key {}"),
    "lines": (".jsonl", as_lines, "line-{}"),
    "windows lines": (".ndjson", as_windows_lines, "line-{}"),
    "lines named json": (".json", as_lines, "line-{}"),
    "lines named nothing": ("", as_lines, "line-{}"),
    "upper case": (".JSONL", as_lines, "line-{}"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


def read(path: Path, layout: Layout | None = None) -> tuple[Layout, list[Record]]:
    """The layout of a file, and its records."""
    raw = [raw for piece in read_pieces(path, is_record=is_record) for raw in piece.records()]
    layout = layout or recognise(path, raw)
    return layout, [parse_record(record, layout) for record in raw]


def read_dialogues(path: Path, content: Any, layout: Layout | None = None) -> list[Dialogue]:
    """The dialogues of a JSON file with this content, which has no faults."""
    path.write_text(json.dumps(content), encoding="utf-8")
    _, records = read(path, layout)
    assert all(record.fault == "" for record in records)
    return [record.dialogue for record in records if record.dialogue]


def prepared(path: Path) -> list[Dialogue]:
    """The dialogues that prep finds in a file or folder, in the input's order."""
    data = data_params(format="auto")
    num_bands, _ = bands_for(data.near_duplicate_threshold)
    with Catalogue(path.parent / "scratch", num_bands) as catalogue:
        read_all(path, data, catalogue)
        catalogue.finish()
        assert not catalogue.faults
        return [catalogue.dialogue(index) for index in range(len(catalogue))]


def parse(entry: Any, layout: Layout = "dialogues", group_by: str | None = None) -> Record:
    return parse_record(RawRecord("mine.jsonl:1", "line-1", json.dumps(entry)), layout, group_by)


def recognised(*entries: Any) -> Layout:
    return recognise(
        "mine", [RawRecord(f"mine:{n}", "", json.dumps(e)) for n, e in enumerate(entries)]
    )


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_from_every_kind_of_file(
    tmp_path: Path, name: str, container: str
) -> None:
    layout, record = LAYOUTS[name]
    suffix, written_as, key = CONTAINERS[container]
    turns = USER_HELLO_HI if layout == "prompts" else HELLO_HI
    wanted = [Dialogue(key.format(number), turns) for number in (1, 2)]
    for compression, compressed in COMPRESSIONS.items():
        path = tmp_path / f"mine{suffix}{compression}"
        path.write_bytes(compressed(written_as([record, record])))
        found, records = read(path)
        assert found == layout
        assert [record.dialogue for record in records] == wanted


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_its_files_by_name_each_in_its_own_layout(tmp_path: Path, name: str) -> None:
    _, record = LAYOUTS[name]
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


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "strings"])
def test_a_file_may_be_one_dialogue(tmp_path: Path, name: str) -> None:
    layout, record = LAYOUTS[name]
    turns = USER_HELLO_HI if layout == "prompts" else HELLO_HI
    path = tmp_path / "mine.json"
    assert read_dialogues(path, {"dialogue_id": "d1", **record}) == [Dialogue("d1", turns)]
    assert read_dialogues(path, record) == [Dialogue("record-1", turns)]


def test_one_dialogue_may_be_larger_than_a_piece(tmp_path: Path) -> None:
    text = "word " * 500_000
    turns = [{"speaker": "A", "text": text}, {"speaker": "B", "text": "Hi"}]
    [dialogue] = read_dialogues(tmp_path / "mine.json", {"id": 7, "turns": turns, "note": text})
    assert dialogue == Dialogue("7", (Turn("A", text.strip()), Turn("B", "Hi")))


def test_a_line_that_is_an_object_by_itself_is_one_dialogue_and_no_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(as_lines([TURNS]))
    assert [record.dialogue for record in read(path)[1]] == [Dialogue("record-1", HELLO_HI)]


def test_any_speakers_in_any_order(tmp_path: Path) -> None:
    """Three speakers, one twice in a row, a system turn, and a monologue are dialogues."""
    turns = [("system", "Be kind."), ("A", "Hello"), ("A", "Anyone?"), ("B", "Hi"), ("C", "Hey")]
    three = {"messages": [{"role": role, "content": text} for role, text in turns]}
    alone = {"messages": [{"role": "A", "content": "Hello"}]}
    found = read_dialogues(tmp_path / "mine.json", [three, alone])
    assert found == [
        Dialogue("record-1", tuple(Turn(*turn) for turn in turns)),
        Dialogue("record-2", (Turn("A", "Hello"),)),
    ]
    assert found[0].speakers == ("system", "A", "B", "C")


def test_strings_alternate_between_two_speakers() -> None:
    dialogue = parse(["1", "2", " ", "4", "5"], "strings").dialogue
    assert dialogue and dialogue.turns == (
        Turn("A", "1"),
        Turn("B", "2"),
        Turn("B", "4"),
        Turn("A", "5"),
    )


def test_a_blocks_messages_are_lines_of_one_turn() -> None:
    blocks = [
        [{"text": "Hello ", "sender": "a"}, {"text": "\tHow are you?", "sender": "a"}],
        [{"text": "fine", "sender": "b"}],
        [{"text": "good", "sender": "b"}],
        [],
        [{"text": "so", "sender": "a"}, {"text": "no", "sender": "b"}],
    ]
    dialogue = parse({"messages": blocks}, "chitchat").dialogue
    assert dialogue and dialogue.turns == (
        Turn("a", "Hello\nHow are you?"),
        Turn("b", "fine"),
        Turn("b", "good"),
        Turn("a", "so"),
        Turn("b", "no"),
    )


def test_parts_of_a_message_are_lines_of_one_turn() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    record = parse({"messages": [{"role": "A", "content": parts}]}, "messages")
    assert record.dialogue and record.dialogue.turns == (Turn("A", "one\ntwo"),)
    assert (record.num_raw_turns, record.num_raw_characters) == (1, len("one \ntwo"))


@pytest.mark.parametrize(
    ("entry", "layout", "num_turns", "num_characters", "kept"),
    [
        (TURNS, "dialogues", 2, len("Hello" + "Hi ☺"), len("Hello" + "Hi ☺")),
        ({"turns": []}, "dialogues", 0, 0, 0),
        ({"turns": [{"speaker": "a", "text": " a b\n"}]}, "dialogues", 1, 5, 3),
        ({"turns": [{"speaker": "a", "text": ""}]}, "dialogues", 1, 0, 0),
        (["x", " \t", "y "], "strings", 3, 5, 2),
        ({"messages": [{"role": "a", "content": []}]}, "messages", 0, 0, 0),
        (
            {
                "messages": [
                    [{"text": " ", "sender": "a"}, {"text": "hey", "sender": "a"}],
                    [{"text": "", "sender": "b"}, {"text": "\n\t", "sender": "b"}],
                    [],
                    [{"text": "anyone?", "sender": "a"}],
                ]
            },
            "chitchat",
            3,
            len(" \nhey") + len("\n\n\t") + len("anyone?"),
            len("hey" + "anyone?"),
        ),
    ],
)
def test_turns_and_characters_are_counted_as_they_came(
    entry: Any, layout: Layout, num_turns: int, num_characters: int, kept: int
) -> None:
    record = parse(entry, layout)
    assert (record.num_raw_turns, record.num_raw_characters) == (num_turns, num_characters)
    assert record.dialogue and record.dialogue.num_characters == kept
    assert all(turn.utterance for turn in record.dialogue.turns)


@pytest.mark.parametrize("key", ["dialogue_id", "id", "conversation_id"])
@pytest.mark.parametrize(("value", "wanted"), [("d-1", "d-1"), (17, "17"), (0, "0"), ("", "")])
def test_a_records_own_id_comes_before_its_place(key: str, value: object, wanted: str) -> None:
    dialogue = parse({key: value, **TURNS}).dialogue
    assert dialogue and dialogue.dialogue_id == wanted


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"], {}])
def test_what_cannot_be_an_id_is_passed_over(value: object) -> None:
    dialogue = parse({"dialogue_id": value, "conversation_id": "c", **TURNS}).dialogue
    assert dialogue and dialogue.dialogue_id == "c"
    dialogue = parse({"dialogue_id": value, **TURNS}).dialogue
    assert dialogue and dialogue.dialogue_id == "line-1"


@pytest.mark.parametrize(
    ("fields", "group_by", "groups"),
    [
        ({}, None, ()),
        ({"topic": "sea"}, "topic", ("sea",)),
        ({"topic": 7}, "topic", ("7",)),
        ({"topic": ["sea", 7, "sea"]}, "topic", ("sea", "7")),
        ({"speakers": "ignored"}, "speakers", ("A", "B")),
    ],
)
def test_groups_are_a_fields_values_or_the_speakers(
    fields: dict[str, Any], group_by: str | None, groups: tuple[str, ...]
) -> None:
    record = parse({**TURNS, **fields}, group_by=group_by)
    assert record.fault == ""
    assert record.groups == groups


@pytest.mark.parametrize(
    ("entry", "layout", "found"),
    [
        (TURNS, "dialogues", "nothing"),
        ({**TURNS, "topic": None}, "dialogues", "nothing"),
        ({**TURNS, "topic": True}, "dialogues", "bool 'True'"),
        ({**TURNS, "topic": 0.5}, "dialogues", "float '0.5'"),
        ({**TURNS, "topic": []}, "dialogues", "list '[]'"),
        ({**TURNS, "topic": ["sea", None]}, "dialogues", "list \"['sea', None]\""),
        (["Hello", "Hi"], "strings", "nothing"),
    ],
)
def test_every_dialogue_must_name_its_group(entry: Any, layout: Layout, found: str) -> None:
    record = parse(entry, layout, "topic")
    assert (record.dialogue, record.reason) == (None, "missing_group")
    assert record.fault == f"'topic' (data.group_by): wanted text or a list of texts, found {found}"


@pytest.mark.parametrize(
    ("entries", "layout"),
    [
        ([{"messages": [[]]}], "chitchat"),
        ([{"messages": []}, CHITCHAT], "chitchat"),
        ([{"messages": [], "tags": ["x"]}, CHITCHAT], "chitchat"),
        ([{"messages": [{"role": 1}]}], "messages"),
        ([{"messages": [None]}], "messages"),
        ([{"turns": []}, {"turns": ["Hello"]}], "strings"),
        ([{"turns": [], "services": ["x"]}, {"turns": ["Hello"]}], "strings"),
        ([[], ["Hello"]], "strings"),
        ([["Hello", 3], TURNS], "dialogues"),
        ([None, 3, "x", {}, {"note": "no dialogue"}, TURNS], "dialogues"),
        ([{**TURNS, "messages": [{"role": "x", "content": "y"}]}], "messages"),
        ([{**TURNS, "prompt": "x"}], "dialogues"),
        ([{"prompt": None}], "prompts"),
    ],
)
def test_the_first_record_that_holds_something_tells_the_layout(
    entries: list[Any], layout: Layout
) -> None:
    assert recognised(*entries) == layout


def test_records_that_cannot_be_read_do_not_hide_the_layout() -> None:
    texts: list[str | bytes] = ["{", b"\xff", "[" * 10_000, '{"a":1,"a":2}', json.dumps(CHITCHAT)]
    assert recognise("mine", [RawRecord("mine:1", "", text) for text in texts]) == "chitchat"


def test_the_layout_may_be_told_after_the_first_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    nothing = json.dumps({"turns": [], "note": "x" * 1000})
    path.write_text(f"\n{nothing}" * 1200 + f"\n{json.dumps(TURNS)}\n")
    dialogues = prepared(path)
    assert len(dialogues) == 1201
    assert dialogues[-1] == Dialogue("line-1202", HELLO_HI)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([{"story": 1, "title": 2}], "mine:0: found 'story', 'title'; wanted one of the keys"),
        (["Hello"], "mine:0: found str 'Hello'; wanted"),
        ([None, {}], r"mine:0: found nothing \(and 1 more that do not tell\); wanted"),
        ([{"turns": []}], "mine:0: found 'turns'; wanted .* with a list that holds something"),
    ],
)
def test_a_layout_that_is_not_known_is_named_by_what_was_found(
    entries: list[Any], found: str
) -> None:
    with pytest.raises(UserError, match=f"layout of its dialogues is not known. {found}"):
        recognised(*entries)


def test_a_forced_layout_is_not_guessed_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    both = {**TURNS, "messages": [{"role": "x", "content": "y"}]}
    assert read_dialogues(path, [both]) == [Dialogue("record-1", (Turn("x", "y"),))]
    assert read_dialogues(path, [both], "dialogues") == [Dialogue("record-1", HELLO_HI)]

    path.write_text(json.dumps([{"note": "no dialogue"}, TURNS]))
    layout, [note, dialogue] = read(path, "dialogues")
    assert layout == "dialogues"
    assert (note.where, note.fault) == (f"{path}, record 1", "wanted 'turns', found 'note'")
    assert dialogue.dialogue == Dialogue("record-2", HELLO_HI)


def turns(*items: Any) -> dict[str, Any]:
    return {"turns": list(items)}


def messages(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


MISSING_SPEAKER = {
    "turn 1: wanted 'speaker', found 'text'": ("dialogues", turns({"text": "x"})),
    "turn 1: wanted 'speaker', found nothing": ("dialogues", turns({})),
    "turn 1: 'speaker': wanted text, found nothing": (
        "dialogues",
        turns({"speaker": None, "text": "x"}),
    ),
    "turn 1: 'speaker': wanted a name, found str ' '": (
        "dialogues",
        turns({"speaker": " ", "text": "x"}),
    ),
    "turn 1: wanted 'from', found 'value'": ("sharegpt", {"conversations": [{"value": "x"}]}),
    "turn 1: wanted 'role', found 'content'": ("messages", messages({"content": "x"})),
    "messages 1: wanted 'sender', found 'text'": ("chitchat", messages([{"text": "x"}])),
}
NO_TEXT = {
    "turn 3: wanted 'text' or 'utterance' or 'content', found 'speaker'": (
        "dialogues",
        turns(*TURNS["turns"], {"speaker": "A"}),
    ),
    "turn 1: 'content': wanted text, found nothing": (
        "messages",
        messages({"role": "a", "content": None}),
    ),
    "turn 1: wanted 'text', found 'type'": (
        "messages",
        messages({"role": "a", "content": [{"type": "text"}]}),
    ),
    "turn 2: wanted text, found nothing": ("strings", ["a", None]),
    "the record: wanted 'response' or 'completion', found 'prompt'": ("prompts", {"prompt": "a"}),
    "the record: 'prompt': wanted text, found nothing": (
        "prompts",
        {"prompt": None, "response": "x"},
    ),
}
NOT_TEXT = {
    "turn 1: 'speaker': wanted text, found bool 'True'": (
        "dialogues",
        turns({"speaker": True, "text": "x"}),
    ),
    "turn 1: 'text' holds a lone surrogate, which is not text": (
        "dialogues",
        turns({"speaker": "A", "text": "x\ud83d"}),
    ),
    "turn 1: 'speaker' holds the character NUL, which is not text": (
        "dialogues",
        turns({"speaker": "A\0", "text": "x"}),
    ),
    "'id' holds a lone surrogate, which is not text": ("dialogues", {"id": "\ud83d", **TURNS}),
    "turn 1: 'content': wanted parts of type 'text', found str 'image_url'": (
        "messages",
        messages({"role": "a", "content": [{"type": "image_url"}]}),
    ),
    "turn 1: 'content': wanted parts of type 'text', found str 'x'": (
        "messages",
        messages({"role": "a", "content": ["x"]}),
    ),
    "turn 1: 'value': wanted text, found int '7'": (
        "sharegpt",
        {"conversations": [{"from": "a", "value": 7}]},
    ),
    "turn 2: wanted text, found int '2'": ("strings", {"dialog": ["a", 2]}),
    "turn 1 holds the character NUL, which is not text": ("strings", ["a\0"]),
}
WRONG_LAYOUT = {
    "turn 1: wanted an object, found str 'Hello'": ("dialogues", turns("Hello")),
    "turn 1: wanted an object, found nothing": ("dialogues", turns(None)),
    "'turns': wanted a list, found str 'Hello'": ("dialogues", {"turns": "Hello"}),
    "'dialog': wanted a list, found nothing": ("dialogues", {"dialog": None}),
    "wanted 'turns', found 'id', 'messages'": ("dialogues", {"id": 1, "messages": []}),
    "wanted 'messages', found 'turns'": ("messages", turns()),
    "wanted an object with 'conversations', found list \"['Hello']\"": ("sharegpt", ["Hello"]),
    "messages 2: wanted a list, found dict \"{'text': 'x'}\"": (
        "chitchat",
        messages([], {"text": "x"}),
    ),
}
FAULTS: list[tuple[str, str, tuple[Any, Any]]] = [
    (reason, fault, case)
    for reason, faults in (
        ("missing_speaker", MISSING_SPEAKER),
        ("no_text", NO_TEXT),
        ("not_text", NOT_TEXT),
        ("wrong_layout", WRONG_LAYOUT),
    )
    for fault, case in faults.items()
]


@pytest.mark.parametrize(("reason", "fault", "case"), FAULTS)
def test_a_fault_says_where_it_is_and_what_was_wanted(
    reason: str, fault: str, case: tuple[Layout, Any]
) -> None:
    layout, entry = case
    record = parse(entry, layout)
    assert record == Record("mine.jsonl:1", reason=reason, fault=fault)
    assert reason in REASONS


@pytest.mark.parametrize("depth", range(900, 1000))
def test_no_depth_of_nesting_is_too_deep_for_the_message_about_it(depth: int) -> None:
    """What can just be parsed must also be described."""
    for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        raw = RawRecord("mine:1", "x", f'{{"turns": {nested}}}')
        assert parse_record(raw, "sharegpt").reason in {"wrong_layout", "not_json"}
        assert parse_record(raw, "dialogues").reason in {"wrong_layout", "not_json"}
        with pytest.raises(UserError):
            recognise("mine", [RawRecord("mine:1", "x", f"[{nested}]")])


def test_what_a_message_quotes_is_short() -> None:
    long = "x" * 1_000_000
    for entry in ({long: 1}, {"turns": [{long: 1}]}, {"turns": [long]}, {"turns": long}):
        assert 0 < len(parse(entry).fault) < 200
    repeated = RawRecord("mine:1", "x", f'{{"{long}": 1, "{long}": 2}}')
    assert 0 < len(parse_record(repeated, "dialogues").fault) < 200


def test_a_repeated_key_is_found_at_once_among_very_many() -> None:
    keys = ", ".join(f'"key {n}": 0' for n in range(100_000))
    record = parse_record(RawRecord("mine:1", "x", f'{{{keys}, "key 99999": 1}}'), "dialogues")
    assert record.fault == "the key 'key 99999' stands twice in one object"
