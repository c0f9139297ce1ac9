"""Whatever JSON a record is, it becomes dialogues or faults, and no word of it vanishes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import Read, read_entry, read_file
from tests.thorough import few_or_all
from tuning.corpus.faults import REASONS
from tuning.corpus.message_keys import (
    FLAG_KEYS,
    LIST_KEYS,
    REASONING_KEYS,
    TEXT_KEYS,
    TIME_KEYS,
    WHO_KEYS,
)
from tuning.dialogue import from_line, to_line
from tuning.run.errors import UserError
from tuning.run.params import ColumnsParams

OTHERS = """
system tools functions prompt completion response instruction input output history chosen rejected
label utterances candidates personality replies mapping current_node parent children author isBot
parts content_type type tool_calls function_call function name arguments tool_call_id participants
channel from_id text_entities speakers roles id conversation_id message_tree_id deleted rank data
is_user is_system is_unsent list chats actor turn_id is_from_me fromMe summary call_id output
choices request response body senderName app ts subtype user
"""
KEYS = sorted(
    {*LIST_KEYS, *TEXT_KEYS, *WHO_KEYS, *FLAG_KEYS, *REASONING_KEYS, *TIME_KEYS, *OTHERS.split()}
)
WORDS = [
    *("user", "assistant", "system", "function_call", "ann", "message", "text", "2024-05-01"),
    *("", " ", "[]", "[{", '[{"role": "user", "content": "hi"}]', '{"name": "f"}'),
    "Human: a\nAI: b",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([10**400, 0.5, float("nan"), float("inf")])
    | st.sampled_from(WORDS)
    | st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=14,
)
odd_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(WORDS[:5]), "content": st.sampled_from(WORDS) | values},
    optional={key: values for key in ("name", "tool_calls", "weight", "thinking", "date", "x")},
)
records = (
    st.dictionaries(
        st.sampled_from(KEYS), values | st.lists(odd_messages, max_size=3), min_size=1, max_size=4
    )
    | values
)
COLUMNS = [
    {},
    {"list": "data", "who": "author.name", "text": "text[0]"},
    {"who": "name", "text": "x"},
    {"list": "[messages, data][]", "role": "type", "id": "before(id, 'a')"},
]


def assert_sound(read: Read) -> None:
    """Every record is a dialogue or a fault, and what it counts adds up."""
    for record in read.records:
        assert (record.dialogue is None) == (record.reason in REASONS)
        assert bool(record.fault) == bool(record.reason)
        if record.dialogue is not None:
            assert from_line(to_line(record.dialogue)) == record.dialogue
            num_left = record.num_raw_characters - record.num_control
            assert num_left >= record.dialogue.num_characters
            assert record.num_raw_turns >= len(record.dialogue.turns)
            assert all(turn.speaker.strip() for turn in record.dialogue.turns)
            assert {turn.weight for turn in record.dialogue.turns} <= {0.0, 1.0}


@given(
    records,
    st.sampled_from(COLUMNS),
    st.sampled_from([None, "speakers", "before(id, '_')", "data[0].text"]),
    st.booleans(),
)
@settings(max_examples=few_or_all(1000))
def test_any_json_is_dialogues_or_faults(
    entry: Any, columns: dict[str, str], group_by: str | None, with_sessions: bool
) -> None:
    nothing = dict.fromkeys(("list", "who", "text", "role", "id"))
    changes: dict[str, Any] = {
        "columns": ColumnsParams.model_validate(nothing | columns),
        "group_by": group_by,
    }
    if with_sessions:
        changes |= {"session_gap_hours": 1.0, "session_turns": 2}
    first, second = (read_entry(entry, **changes) for _ in range(2))
    assert_sound(first)
    assert first == second


@given(st.lists(records | odd_messages, max_size=4), st.sampled_from(["list", "lines", "object"]))
@settings(max_examples=few_or_all(200))
def test_any_file_of_json_is_dialogues_or_faults_or_a_message(entries: Any, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("mine.jsonl" if kind == "lines" else "mine.json")
        if kind == "lines":
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        elif kind == "list":
            path.write_text(json.dumps(entries))
        else:
            path.write_text(json.dumps({f"k{n}": entry for n, entry in enumerate(entries)}))
        try:
            assert_sound(read_file(path))
        except UserError as error:
            assert str(error).startswith(str(path))


words = st.from_regex(r"[a-z]{8}", fullmatch=True)
speakers = st.sampled_from(["ann", "user", "assistant", "tool"])


@st.composite
def sound_messages(draw: st.DrawFn, who: str, text: str) -> dict[str, Any]:
    """A message with words of its own in every place that may hold some."""
    message: dict[str, Any] = {who: draw(speakers), text: draw(words)}
    if text == "content" and draw(st.booleans()):
        message[text] = [{"type": "text", "text": word} for word in draw(st.lists(words))]
    more: dict[str, st.SearchStrategy[Any]] = {
        "reasoning_content": words,
        "thinking": words,
        "weight": st.sampled_from([0, 1, None, True]),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {"name": words, "arguments": words.map(lambda word: json.dumps({"a": word}))}
            )
        ),
        "note": words,
        "extra": st.none() | st.just([]) | st.dictionaries(words, words),
        "msg": words,
    }
    for key in draw(st.lists(st.sampled_from(sorted(more)), unique=True)):
        message[key] = draw(more[key])
    return message


@st.composite
def sound_records(draw: st.DrawFn) -> dict[str, Any]:
    """A record of which everything can be read."""
    who = draw(st.sampled_from(["role", "from", "speaker", "sender", "Role"]))
    text = draw(st.sampled_from(TEXT_KEYS[:-1]))
    messages = draw(st.lists(sound_messages(who, text), min_size=1, max_size=4))
    key = draw(st.sampled_from([*LIST_KEYS, "Messages", "spoken"]))
    record: dict[str, Any] = {key: messages}
    for other in ("system", "system_prompt", "title", "source", "tools"):
        if draw(st.booleans()):
            record[other] = draw(words)
    return record


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_in(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts_in(item)]
    return [value] if isinstance(value, str) and value != "text" else []


@pytest.mark.parametrize("wrapped", [False, True])
@given(record=sound_records())
@settings(max_examples=few_or_all(200))
def test_every_word_is_in_the_dialogue_or_under_a_key_that_is_counted(
    record: dict[str, Any], wrapped: bool
) -> None:
    read = read_entry({"data": [record, record]} if wrapped else record)
    found = read.dialogues[0]
    kept = [found.tools]
    for turn in found.turns:
        calls = [text for call in turn.tool_calls for text in (call.name, call.arguments)]
        kept += [turn.speaker, turn.utterance, turn.reasoning, *calls]
    shown = " ".join(kept)
    lost: Counter[str] = Counter()
    [items] = [value for value in record.values() if isinstance(value, list)]
    for prefix, objects in (("", [record]), ("message.", items)):
        for one in objects:
            for key, value in one.items():
                if value is items or key.casefold() in ("role", "from", "speaker", "sender"):
                    continue
                lost[prefix + key] += any(text not in shown for text in texts_in(value))
    for key, count in lost.items():
        assert read.unused.get(key, 0) >= count * (1 + wrapped)
    assert all(count <= len(items) * (1 + wrapped) for count in read.unused.values())
