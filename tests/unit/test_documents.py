"""A JSON document is one record, a table, or a wrapper of them, and is cut into whole records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning.corpus.layouts import is_record
from tuning.reading import documents, records
from tuning.reading.pieces import RawRecord, read_pieces
from tuning.reading.records import Break
from tuning.run.errors import UserError

SAID = [{"speaker": "ann", "text": "Hello"}, {"speaker": "bob", "text": "Hi"}]
ROLES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
SENT = [{"sender_name": "Ann", "content": "Hello"}, {"sender_name": "Bob", "content": "Hi"}]
PERSONA = {
    "personality": ["i like ferries .", "i mend kettles ."],
    "utterances": [{"candidates": ["no", "yes"], "history": ["hello", "hi"]}],
}
CHAT = {"name": "Ann", "type": "personal_chat", "id": 7, "messages": [
    {"id": 1, "type": "service", "actor": "Ann", "text": ""},
    {"id": 2, "from": "Ann", "text": "Hello", "text_entities": [{"type": "x", "text": "Hello"}]},
]}  # fmt: skip

ONE = [
    pytest.param({"turns": SAID, "id": "x"}, id="turns"),
    pytest.param({"id": "x", "made_by": {"name": "y"}, "tags": ["a", "b"], "messages": ROLES},
                 id="messages after other keys"),
    pytest.param({"participants": [{"name": "Ann"}, {"name": "Bob"}], "messages": SENT},
                 id="Messenger"),
    pytest.param({"guild": {"id": "1"}, "channel": {"id": "2"}, "messages": [
        {"id": "0", "content": "Hello", "author": {"name": "sal"}, "attachments": [{"id": 1}]}
    ]}, id="Discord"),
    pytest.param(CHAT, id="Telegram, one chat"),
    pytest.param({"article_url": "x", "words": SAID}, id="messages under another key"),
    pytest.param({"instruction": "Hello", "output": "Hi"}, id="instruction"),
    pytest.param({"history": [["Hello", "Hi"]], "query": "So?"}, id="history before a query"),
    pytest.param({"prompt": ROLES[:1], "completion": ROLES[1:]}, id="prompt of messages"),
    pytest.param({"prompt": {"text": "Hello", "role": "prompter", "replies": []}}, id="tree"),
    pytest.param({"title": "x", "mapping": {"r": {"message": None}}}, id="mapping"),
    pytest.param({"text": "### Human: Hello\n### Assistant: Hi"}, id="text"),
    pytest.param({"messages": []}, id="empty"),
]  # fmt: skip
MANY: list[Any] = [
    pytest.param({"version": 1, "data": [{"messages": ROLES}] * 2}, [{"messages": ROLES}] * 2,
                 ["version"], id="data"),
    pytest.param({"train": [PERSONA] * 2, "valid": [PERSONA], "test": []}, [PERSONA] * 3, ["test"],
                 id="splits"),
    pytest.param({"conversations": [{"id": 0, "messages": ROLES}]}, [{"id": 0, "messages": ROLES}],
                 [], id="under a key that dialogues have"),
    pytest.param({"about": "x", "chats": {"about": "y", "list": [CHAT] * 2}, "left": {"list": []}},
                 [CHAT] * 2, ["about", "chats.about", "left"], id="Telegram, all chats"),
    pytest.param({"data": [ROLES, SAID]}, [ROLES, SAID], [], id="lists of messages"),
    pytest.param({"data": [["Hello", "Hi"], ["a", "b"]]}, [["Hello", "Hi"], ["a", "b"]], [],
                 id="lists of texts"),
    pytest.param({"rows": [{"text": "### Human: Hello\n### Assistant: Hi"}], "tags": ["x", "y"]},
                 [{"text": "### Human: Hello\n### Assistant: Hi"}], ["tags"], id="texts"),
    pytest.param({"n": 2, "dialogues": {"a": {"turns": SAID}, "b": {"turns": SAID}}},
                 [{"turns": SAID}] * 2, ["n"], id="wrapped table"),
]  # fmt: skip
TABLES = [
    pytest.param({"a": {"turns": SAID}, "b": {"turns": SAID}}, id="records"),
    pytest.param({"a": SAID, "b": SAID, "c": []}, id="lists of messages"),
    pytest.param({"a": {"url": "x", "content": SAID}, "b": {"content": SAID}}, id="other keys"),
    pytest.param({"a": {"story": 1}, "b": 2}, id="nothing known"),
    pytest.param({"a": PERSONA, "b": None}, id="one of them null"),
]


def read(path: Path, **options: Any) -> list[RawRecord]:
    pieces = read_pieces(path, is_record=is_record, **options)
    return [record for piece in pieces for record in piece.records()]


@pytest.fixture(params=[1, 50, 2**20])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(records, "PIECE_BYTES", request.param)

    def write(*values: Any, indent: int | None = None) -> Path:
        path = tmp_path / "x.json"
        path.write_text("\n".join(json.dumps(value, indent=indent) for value in values))
        return path

    return write


@pytest.mark.parametrize("value", ONE)
def test_one_dialogue_stays_whole(written: Any, value: Any) -> None:
    beside: list[str] = []
    [record] = read(written(value), on_beside=beside.append)
    assert json.loads(record.text) == value
    assert (record.key, beside) == ("record-1", [])


@pytest.mark.parametrize("value", ONE)
def test_dialogues_one_after_another_are_records(written: Any, value: Any) -> None:
    found = read(written(value, value, {"other": "keys"}, indent=1))
    assert [json.loads(record.text) for record in found] == [value, value, {"other": "keys"}]


@pytest.mark.parametrize(("value", "wanted", "beside"), MANY)
def test_a_wrapper_gives_its_records_and_the_keys_beside_them(
    written: Any, value: Any, wanted: Any, beside: list[str]
) -> None:
    found_beside: list[str] = []
    found = read(written(value), on_beside=found_beside.append)
    assert [json.loads(record.text) for record in found] == wanted
    assert found_beside == beside
    places = [record.where.rpartition(", ")[2] for record in found]
    assert places == [f"record {number}" for number in range(1, len(wanted) + 1)]


@pytest.mark.parametrize("value", TABLES)
def test_every_value_of_a_table_is_a_record_with_its_id(written: Any, value: Any) -> None:
    assert {r.key: json.loads(r.text) for r in read(written(value))} == value


def test_an_object_that_never_shows_what_it_is_is_cut_up(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "LOOK_CHARACTERS", 100)
    value = {f"word {number}": number for number in range(30)}
    assert len(read(written(value))) == 30


@pytest.mark.parametrize("value", [0, {}, [], {"a": 1}, [{"a": 1}]], ids=json.dumps)
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_a_large_object_is_not_asked_what_it_is_at_every_key(
    written: Any, value: Any, levels: int
) -> None:
    """Each answer takes as long as the object has keys; a million of them had no end."""
    num_seen = 0

    def is_no_record(value: Any) -> bool:
        nonlocal num_seen
        num_seen += len(value) if isinstance(value, dict | list) else 0
        return False

    content = {f"word {number}": value for number in range(4000)}
    for _ in range(levels):
        content = {"within": content}
    pieces = read_pieces(written(content), is_record=is_no_record)
    assert sum(1 for piece in pieces for _ in piece.records()) == (1 if levels else 4000)
    assert num_seen < 20 * 4000


@given(
    elements=st.lists(
        st.lists(st.text(st.sampled_from('aé"\\☺😀'), max_size=4), min_size=2, max_size=4),
        min_size=1,
        max_size=5,
    ),
    at=st.floats(0, 1, exclude_max=True),
    piece_bytes=st.integers(1, 40),
    key=st.sampled_from(["", "data"]),
)
def test_a_document_cut_anywhere_keeps_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory,
    elements: list[list[str]],
    at: float,
    piece_bytes: int,
    key: str,
) -> None:
    """By bytes, so that it may end within a character."""
    document = {key: elements} if key else elements
    text = json.dumps(document, ensure_ascii=False, indent=1).encode()
    content = text[: int(at * len(text))]
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(content)
    breaks: list[Break] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "PIECE_BYTES", piece_bytes)
        try:
            found = read(path, on_break=breaks.append)
        except UserError as error:
            assert "skip keeps" not in str(error)
            return  # not one whole record
    assert [json.loads(record.text) for record in found] == elements[: len(found)]
    [broken] = breaks
    assert broken.byte + broken.num_bytes == len(content)
    ends = content[: broken.byte].count(b"]")  # of records, and maybe of the list of all of them
    assert ends - len(found) in ({0, 1} if key and len(found) == len(elements) else {0})
