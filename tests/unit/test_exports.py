"""Exports of chat apps, trees of replies, and files with a message per row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import (
    Read,
    assistant,
    prepare_records,
    read_entry,
    read_file,
    system,
    tool,
    user,
)
from tuning.dialogue import Dialogue, Turn
from tuning.reading import records as reading
from tuning.run.errors import UserError
from tuning.run.params import ColumnsParams


def said(read: Read) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.utterance) for turn in read.turns]


# Telegram


def telegram(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    numbered = [
        {
            "id": n,
            "type": "message",
            "date": f"2024-01-01T10:0{n}:00",
            "from_id": "user1",
            **message,
        }
        for n, message in enumerate(messages)
    ]
    return {"name": "Tobi", "type": "personal_chat", "id": 101, "messages": numbered, **more}


TELEGRAM = telegram(
    {"type": "service", "actor": "Mira", "action": "create_group", "text": ""},
    {"from": "Mira", "text": "Hello", "text_entities": []},
    {"from": "User", "text": ["see ", {"type": "link", "text": "a.example"}, "!"]},
    {"from": "Mira", "text": "", "photo": "x.jpg"},
    {"from": None, "from_id": "user7", "text": "gone", "reply_to_message_id": 1},
)


def test_a_telegram_chat_is_its_messages_with_text() -> None:
    found = read_entry(TELEGRAM)
    assert found.dialogue.dialogue_id == "101"
    assert said(found) == [("Mira", "Hello"), ("User", "see a.example!"), ("user7", "gone")]
    assert {turn.role for turn in found.turns} == {None}
    assert found.passed_over == {
        "Telegram: service messages": 1,
        "Telegram: messages without text": 1,
    }
    assert found.unused == {"name": 1, "type": 1, "message.reply_to_message_id": 1}


def test_a_team_may_give_people_roles() -> None:
    found = read_entry(TELEGRAM, roles={"mira": "assistant"})
    assert [turn.role for turn in found.turns] == ["assistant", None, None]


@pytest.mark.parametrize("about", [{}, {"about": "your data", "personal_information": {"x": "y"}}])
def test_a_full_telegram_export_is_all_its_chats(tmp_path: Path, about: dict[str, Any]) -> None:
    chats = [TELEGRAM, telegram(id=102), telegram({"from": "Ann", "text": "Hi"}, id=103)]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**about, "chats": {"about": "all", "list": chats}}))
    found = read_file(path)
    assert [(d.dialogue_id, len(d.turns)) for d in found.dialogues] == [
        ("101", 3),
        ("102", 0),
        ("103", 1),
    ]
    assert set(about) <= {*found.beside, *found.unused}


# Discord


def discord(*messages: dict[str, Any]) -> dict[str, Any]:
    return {
        "guild": {"id": "1", "name": "workshop"},
        "channel": {"id": "2", "type": "GuildTextChat", "name": "room"},
        "messages": [
            {
                "id": f"{n}",
                "type": "Default",
                "timestamp": f"2024-05-01T10:0{n}:00+02:00",
                **message,
            }
            for n, message in enumerate(messages)
        ],
    }


def author(name: str, *, bot: bool = False, **more: Any) -> dict[str, Any]:
    return {"id": "9", "name": name, "isBot": bot, **more}


def test_a_discord_channel_is_its_messages_replies_and_bots_among_them() -> None:
    found = read_entry(
        discord(
            {"type": "GuildMemberJoin", "content": "Joined.", "author": author("mod")},
            {"content": "Hello", "author": author("jun", nickname="Jun ☺", roles=[{"name": "x"}])},
            {
                "type": "Reply",
                "content": "Hi",
                "author": author("system"),
                "reference": {"messageId": "1"},
            },
            {"content": " ", "author": author("jun"), "attachments": [{"url": "x.png"}]},
            {"content": "Pong", "author": author("Helper", bot=True), "reactions": [{"count": 1}]},
        )
    )
    assert found.turns == [
        Turn("Jun ☺", "Hello"),
        Turn("system", "Hi"),
        Turn("Helper", "Pong"),
    ]
    assert found.passed_over == {
        "Discord: GuildMemberJoin messages": 1,
        "Discord: messages without text": 1,
    }
    assert found.unused == {
        "guild": 1,
        "channel": 1,
        "message.reference": 1,
        "message.reactions": 1,
    }


# Messenger


def mangled(text: str) -> str:
    return text.encode().decode("latin-1")


def messenger(*messages: tuple[int, str, str | None], **more: Any) -> dict[str, Any]:
    return {
        "participants": [{"name": mangled("Zoë")}, {"name": "Tobi"}],
        "messages": [
            {
                "sender_name": mangled(who),
                "timestamp_ms": 1_700_000_000_000 + time,
                **({} if text is None else {"content": mangled(text)}),
                "type": "Generic",
            }
            for time, who, text in messages
        ],
        "thread_path": "inbox/x",
        **more,
    }


def test_messenger_is_read_from_the_oldest_on_with_its_utf8_mended() -> None:
    found = read_entry(
        messenger((5, "Tobi", "4 schön"), (3, "Zoë", "3 ☺"), (3, "Zoë", "2"), (1, "Tobi", "1"))
    )
    assert said(found) == [("Tobi", "1"), ("Zoë", "2"), ("Zoë", "3 ☺"), ("Tobi", "4 schön")]
    assert found.unused == {"participants": 1, "thread_path": 1}


def test_a_text_that_is_not_mangled_is_left_alone() -> None:
    chat = messenger((1, "Tobi", "x"))
    chat["messages"][0] |= {"content": "schön ☺", "sender_name": "Zoë"}
    assert said(read_entry(chat)) == [("Zoë", "schön ☺")]


def test_messengers_photos_calls_and_unsent_messages_are_passed_over() -> None:
    chat = messenger((4, "Tobi", "x"), (3, "Zoë", None), (2, "Zoë", "gone"), (1, "Tobi", "hm"))
    chat["messages"][1]["photos"] = [{"uri": "x.jpg"}]
    chat["messages"][2]["is_unsent"] = True
    chat["messages"][3]["type"] = "Call"
    found = read_entry(chat)
    assert said(found) == [("Tobi", "x")]
    assert found.passed_over == {
        "Messenger: messages without text": 1,
        "Messenger: unsent messages": 1,
        "Messenger: Call messages": 1,
    }


@pytest.mark.parametrize("text", [{"a": 1}, 7, [7]])
def test_a_text_of_an_app_that_is_none_is_a_fault(text: object) -> None:
    for chat in (messenger((1, "Tobi", "x")), discord({"author": author("jun")})):
        chat["messages"][0]["content"] = text
        assert read_entry(chat).fault[0] == "not_text"


def test_odd_things_among_an_apps_messages_are_passed_over() -> None:
    chat = telegram({"from": "Mira", "text": "Hello", "text_entities": []})
    chat["messages"] += [7, None, "x"]
    found = read_entry(chat)
    assert said(found) == [("Mira", "Hello")]
    assert found.passed_over == {"Telegram: not an object": 3}


# ChatGPT


def node(parent: str | None, role: str = "", text: Any = "", **message: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [text]}
    own = {"author": {"role": role}, "content": content, **message} if role else None
    return {"message": own, "parent": parent, "children": []}


def chatgpt(current: str | None = "c", **more: Any) -> dict[str, Any]:
    return {
        "id": "conv",
        "mapping": {
            "r": node(None),
            "s": node("r", "system", weight=0.0),
            "a": node("s", "user", "q"),
            "b": node("a", "assistant", "another answer"),
            "c": node("a", "assistant", "a"),
            **more,
        },
        **({} if current is None else {"current_node": current}),
    }


def test_a_chatgpt_conversation_is_its_current_branch() -> None:
    found = read_entry(chatgpt())
    assert found.dialogue.dialogue_id == "conv"
    assert found.turns == [user("q"), assistant("a")]
    assert found.passed_over == {"ChatGPT: other branches": 1}
    assert found.unused == {}
    assert read_entry(chatgpt("b")).turns == [user("q"), assistant("another answer")]


def test_without_a_current_node_it_is_the_last_leaf() -> None:
    conversation = chatgpt(None)
    for name in ("r", "s", "a"):
        conversation["mapping"][name]["children"] = ["x"]
    assert read_entry(conversation).turns == [user("q"), assistant("a")]


def test_chatgpts_tools_code_and_hidden_messages() -> None:
    code = {"content_type": "code", "text": "search()"}
    more = {
        "d": node("c", "assistant", content=code),
        "e": node("d", "tool", "found", author={"role": "tool", "name": "browser"}),
        "f": node("e", "assistant", "So.", weight=0),
        "g": node("f", "system", "Be kind.", metadata={"x": 1}),
    }
    found = read_entry(chatgpt("g", **more))
    assert found.turns == [
        *(user("q"), assistant("a"), tool("found"), assistant("So.", weight=0.0)),
        system("Be kind."),
    ]
    assert found.passed_over == {"ChatGPT: code": 1, "ChatGPT: other branches": 1}
    assert found.unused == {"message.metadata": 1}


def test_chatgpts_pictures_are_counted_beside_their_words() -> None:
    parts = [
        {"content_type": "image_asset_pointer", "asset_pointer": "x"},
        "What is this?",
        {"content_type": "audio_transcription", "text": "And that?"},
    ]
    picture = node("c", "user", content={"content_type": "multimodal_text", "parts": parts})
    alone = {"content_type": "multimodal_text", "parts": parts[:1]}
    found = read_entry(chatgpt("e", d=picture, e=node("d", "user", content=alone)))
    assert found.turns == [user("q"), assistant("a"), user("What is this?\nAnd that?")]
    assert found.passed_over == {"ChatGPT: image_asset_pointer": 2, "ChatGPT: other branches": 1}


@pytest.mark.parametrize("current", ["nowhere", 7, ["c"], {"x": 1}])
def test_a_node_that_leads_nowhere_is_a_fault(current: Any) -> None:
    assert read_entry(chatgpt(current)).fault[0] == "wrong_layout"
    assert read_entry(chatgpt("x", x=node(current, "user", "q"))).fault[0] == "wrong_layout"


def test_a_circle_is_a_fault() -> None:
    circle = chatgpt("x", x=node("y", "user", "q"), y=node("x", "user", "q"))
    assert read_entry(circle).fault == ("wrong_layout", "mapping: node 'x' leads nowhere")


# Claude


def test_a_claude_export_is_its_chat_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = read_entry(
        {
            "uuid": "u0",
            "name": "the chat",
            "chat_messages": [
                {
                    "uuid": "1",
                    "sender": "human",
                    "text": "q",
                    "content": [parts[0] | {"text": "q"}],
                },
                {"uuid": "2", "sender": "assistant", "text": "a\nb", "content": parts},
                {"uuid": "3", "sender": "human", "text": "old", "content": []},
            ],
        }
    )
    assert found.dialogue == Dialogue("u0", (user("q"), assistant("a\nb"), user("old")))
    assert found.unused == {"name": 1, "message.uuid": 3}


# Open Assistant


def reply(text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    role = more.pop("role", "assistant")
    return {"message_id": f"m-{text}", "text": text, "role": role, "replies": [*replies], **more}


def tree(*replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_tree_id": "t", "prompt": reply("q", *replies, role="prompter"), **more}


def test_a_tree_is_a_dialogue_for_each_leaf_and_trains_each_node_once() -> None:
    found = read_entry(
        tree(
            reply("b", rank=1),
            reply("a", reply("r", reply("c"), reply("d"), role="prompter"), rank=0),
            tree_state="ready",
        )
    )
    assert {d.dialogue_id: list(d.turns) for d in found.dialogues} == {
        "t/1": [user("q"), assistant("a"), user("r"), assistant("c")],
        "t/2": [
            user("q", weight=0.0),
            assistant("a", weight=0.0),
            user("r", weight=0.0),
            assistant("d"),
        ],
        "t/3": [user("q", weight=0.0), assistant("b")],
    }
    assert {record.groups for record in found.records} == {("tree t",)}
    assert found.unused == {"tree_state": 1}


FORKED = tree(
    reply("first", reply("r", reply("s", role="prompter"), role="prompter"), score=2),
    reply("ranked", reply("late", rank=1), reply("good", rank=0), rank=0, score=1),
    reply("scored", score=3),
)


@pytest.mark.parametrize(
    ("branches", "record", "texts", "num_others"),
    [
        ("best", FORKED, ["q", "ranked", "good"], 5),
        ("longest", FORKED, ["q", "first", "r", "s"], 4),
        ("best", tree(reply("a", score=1), reply("b", score=2.5), reply("c")), ["q", "b"], 2),
        ("best", tree(reply("a"), reply("b")), ["q", "a"], 1),
    ],
)
def test_one_branch_of_a_tree_may_be_wanted_and_the_others_are_counted(
    branches: str, record: dict[str, Any], texts: list[str], num_others: int
) -> None:
    found = read_entry(record, branches=branches)
    assert [turn.utterance for turn in found.turns] == texts
    assert all(turn.weight for turn in found.turns)
    assert found.passed_over == {"Open Assistant: other branches": num_others}
    assert found.unused == {}


def test_the_longest_branch_of_a_chatgpt_conversation_may_not_be_the_one_that_was_shown() -> None:
    forked = chatgpt("c", d=node("b", "user", "and?"), e=node("b", "user", "or?"))
    assert read_entry(forked, branches="best").turns == [user("q"), assistant("a")]
    found = read_entry(forked, branches="longest")
    assert found.turns == [user("q"), assistant("another answer"), user("and?")]
    assert found.passed_over == {"ChatGPT: other branches": 2}


def test_what_a_node_says_besides_is_counted_once_and_its_weight_is_heard() -> None:
    found = read_entry(tree(reply("a", weight=0, labels={"spam": 0}), reply("b", lang="en")))
    assert [turn.weight for turn in found.dialogues[0].turns] == [1, 0]
    assert found.unused == {"message.labels": 1, "message.lang": 1}


def test_deleted_replies_and_what_hangs_on_them_are_passed_over() -> None:
    found = read_entry(tree(reply("a", deleted=False), reply("b", reply("c"), deleted=True)))
    assert found.dialogue == Dialogue("t", (user("q"), assistant("a")))
    assert found.passed_over == {"Open Assistant: deleted replies": 1}


def test_a_tree_may_begin_with_its_message_and_be_named_by_it() -> None:
    bare = reply("q", reply("a"), role="prompter")
    assert read_entry(bare).dialogue == Dialogue("m-q", (user("q"), assistant("a")))
    unnamed = {key: value for key, value in bare.items() if key != "message_id"}
    assert read_entry(unnamed).dialogue.dialogue_id == "line-1"
    assert read_entry(bare, group_by="message_id").records[0].groups == ("m-q",)


@pytest.mark.parametrize("replies", ["x", {"a": 1}, [7], ["x"]])
def test_replies_that_are_none_are_a_fault(replies: object) -> None:
    broken = tree(reply("a") | {"replies": replies})
    assert read_entry(broken).fault[0] == "wrong_layout"


def test_a_whole_tree_is_on_one_side_of_the_split() -> None:
    words = ["kettle", "harbour", "violin", "marble", "pepper", "island", "tunnel", "saddle"]
    records = []
    for number in range(40):
        answers = [reply(f"{' '.join(words[n:])} {number} {n}" * 3) for n in range(4)]
        question = reply(f"what of {number}", *answers, role="prompter")
        records.append({"message_tree_id": f"t{number}", "prompt": question})
    prepared = prepare_records(records, near_duplicate_threshold=1.0)
    sides: dict[str, set[str]] = {}
    for name, side in prepared.side_of().items():
        sides.setdefault(name.partition("/")[0], set()).add(side)
    assert len(prepared.kept) == 160
    assert sorted(map(len, sides.values())) == [1] * 40
    assert set().union(*sides.values()) == {"train", "val"}


# SillyTavern


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_sillytavern_log_is_one_dialogue_behind_its_header(tmp_path: Path) -> None:
    rows = [
        {"user_name": "You", "character_name": "Luna", "chat_metadata": {}},
        {"name": "You", "is_user": True, "is_system": False, "mes": "Hello", "send_date": 0},
        {"name": "Luna", "is_user": False, "is_system": False, "mes": "Hi", "extra": {"api": "x"}},
        {"name": "Luna", "is_user": False, "is_system": True, "mes": "(a note)"},
        {"name": "", "is_user": False, "mes": "Well?"},
    ]
    found = read_file(lines(tmp_path / "chat-1.jsonl", rows))
    turns = (user("Hello"), assistant("Hi"), assistant("Well?"))
    assert found.dialogue == Dialogue("chat-1", turns)
    assert found.passed_over == {"SillyTavern: hidden messages": 1}
    assert found.unused == {"message.extra": 1}


# Rows


@pytest.mark.parametrize("key", ["c_id", "conversation_id", "Thread_ID", "session_id"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_rows_of_a_conversation_are_gathered_in_order(
    tmp_path: Path, key: str, suffix: str
) -> None:
    rows = [
        {key: 0, "role": "user", "message": "1", "lang": "en"},
        {key: 0, "role": "assistant", "message": "2"},
        {key: 1, "role": "user", "message": "3"},
        {key: "x", "role": "user", "content": [{"type": "text", "text": "4"}]},
        {key: "x", "role": "assistant", "content": ["5"], "weight": 0},
    ]
    path = lines(tmp_path / f"mine{suffix}", rows)
    if suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    found = read_file(path)
    assert found.dialogues == [
        Dialogue("0", (user("1"), assistant("2"))),
        Dialogue("1", (user("3"),)),
        Dialogue("x", (user("4"), assistant("5", weight=0.0))),
    ]
    assert found.unused == {"message.lang": 1}


def test_rows_of_channels_are_a_log_each_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        {"channel": f"c{n % 2}", "user": "ann", "text": f"{n}", "ts": 1e9 + 3600 * n}
        for n in range(6)
    ]
    rows.append({"channel": None, "user": "bo", "text": "alone", "ts": 1e9})
    found = read_file(lines(tmp_path / "mine.jsonl", rows), session_gap_hours=2.5)
    assert [(d.dialogue_id, [t.utterance for t in d.turns]) for d in found.dialogues] == [
        ("c0", ["0", "2", "4"]),
        ("c1", ["1", "3", "5"]),
        ("mine", ["alone"]),
    ]
    assert found.unused == {}
    apart = read_file(tmp_path / "mine.jsonl", session_gap_hours=1.5)
    assert len(apart.dialogues) == 7


@pytest.mark.parametrize(
    ("numbers", "conversations"),
    [
        ([0, 1, 2, 0, 1, 0, 1], [[0, 1, 2], [3, 4], [5, 6]]),
        ([1, 1, 2, 2, 1, 1], [[0, 1, 2, 3], [4, 5]]),
        (["1", "2", "10", "1"], [[0, 1, 2], [3]]),
        ([5, 6, 8], [[0, 1, 2]]),
        ([2, 3, 1], [[2, 0, 1]]),
    ],
)
def test_rows_without_conversations_begin_one_where_their_turns_begin_anew(
    tmp_path: Path, numbers: list[Any], conversations: list[list[int]]
) -> None:
    rows = [{"turn_idx": n, "speaker": "A", "text": f"{i}"} for i, n in enumerate(numbers)]
    found = read_file(lines(tmp_path / "mine.jsonl", rows))
    assert [[int(turn.utterance) for turn in d.turns] for d in found.dialogues] == conversations
    names = [f"mine/{n + 1}" for n in range(len(conversations))]
    ids = [dialogue.dialogue_id for dialogue in found.dialogues]
    assert ids == (names if len(names) > 1 else ["mine"])


def test_rows_of_a_conversation_are_sorted_by_their_turns(tmp_path: Path) -> None:
    rows = [
        {"c_id": n // 3, "turn_id": f"{-n % 3}", "speaker": "A", "text": f"{n}"} for n in range(6)
    ]
    found = read_file(lines(tmp_path / "mine.jsonl", rows))
    assert [[turn.utterance for turn in d.turns] for d in found.dialogues] == [
        ["0", "2", "1"],
        ["3", "5", "4"],
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_rows_with_names_of_their_own_are_gathered_by_columns(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"talk": f"t{n // 2}", "persona": "Ann" if n % 2 else "Model", "line": f"{n}", "mood": "ok"}
        for n in range(4)
    ]
    path = lines(tmp_path / f"mine{suffix}", rows)
    if suffix == ".csv":
        cells = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(cells))
    nothing = dict.fromkeys(("list", "who", "text", "role", "id"))
    paths = {"who": "persona", "text": "line"}
    for own, names in (({"id": "talk"}, ["t0", "t1"]), ({}, ["mine"])):
        columns = ColumnsParams.model_validate(nothing | paths | own)
        found = read_file(path, columns=columns)
        assert [dialogue.dialogue_id for dialogue in found.dialogues] == names
        assert [t for d in found.dialogues for t in d.turns] == [
            Turn("Model" if n % 2 == 0 else "Ann", f"{n}") for n in range(4)
        ]
        assert found.unused == {"message.mood": 4} | ({} if own else {"message.talk": 4})


def test_conversations_are_the_same_in_any_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"c_id": n // 3, "speaker": f"s{n % 2}", "text": f"text {n}"} for n in range(200)]
    path = lines(tmp_path / "mine.jsonl", rows)
    whole = read_file(path).dialogues
    assert [len(d.turns) for d in whole] == [3] * 66 + [2]
    for size in (1, 100, 1000):
        monkeypatch.setattr(reading, "PIECE_BYTES", size)
        assert read_file(path).dialogues == whole


def test_rows_that_stand_apart_are_an_error_that_says_so(tmp_path: Path) -> None:
    rows = [{"c_id": n, "role": "user", "text": f"{n}"} for n in (0, 1, 0)]
    path = lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(
        UserError, match=r"mine\.jsonl:3: rows of the conversation '0' stand in sev"
    ):
        read_file(path)


def test_a_row_that_is_broken_or_names_no_conversation_is_a_fault_of_its_own(
    tmp_path: Path,
) -> None:
    row = {"c_id": 0, "role": "user", "text": "1"}
    lost = {"role": "user", "text": "lost"}
    path = lines(tmp_path / "mine.jsonl", [row, lost, 7, row, {**row, "c_id": 1}])
    path.write_text(path.read_text() + '{"c_id": 1, "role"\n')
    found = read_file(path).records
    assert {r.where.partition(":")[2]: r.reason for r in found} == {
        "1": "",
        "2": "unknown_layout",
        "3": "unknown_layout",
        "5": "",
        "6": "not_json",
    }
    assert [len(r.dialogue.turns) for r in found if r.dialogue] == [2, 1]


def test_a_fault_in_a_row_is_the_conversations_at_its_place(tmp_path: Path) -> None:
    row = {"c_id": 0, "role": "user", "text": "1"}
    path = lines(tmp_path / "mine.jsonl", [row, {**row, "c_id": 1}, {**row, "c_id": 1, "text": 7}])
    good, bad = read_file(path).records
    assert good.dialogue == Dialogue("0", (user("1"),))
    assert bad.where == f"{path}:2"
    assert bad.fault == "turn 2: 'text': wanted text, found int '7'"


def test_rows_that_answer_each_other_are_refused_by_name(tmp_path: Path) -> None:
    rows = [{"message_id": "m", "parent_id": None, "role": "prompter", "text": "q"}]
    with pytest.raises(UserError, match="answers another one .'parent_id'."):
        read_file(lines(tmp_path / "mine.jsonl", rows))
