"""WhatsApp's text exports and Slack's folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.prep import prepare
from tests.corpora import Read, data_params, read_file
from tuning.corpus.slack import plain
from tuning.dialogue import Dialogue, Turn, read_dialogues
from tuning.reading.pieces import data_files
from tuning.run.errors import UserError

MARK, ISOLATED = "\u200e", "\u202a+49 151 55\u202c"


def read_text(path: Path, *lines: str, **changes: Any) -> Read:
    """What a WhatsApp export of these lines holds."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return read_file(path, **changes)


def said(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.utterance) for turn in dialogue.turns]


# WhatsApp

FORMS = {
    "Android, 24 h": ("31.12.23, 21:15 - ", "31.12.23, 21:16 - "),
    "Android, 12 h": ("12/31/23, 9:15\u202fPM - ", "12/31/23, 9:16\u202fPM - "),
    "Android, Spanish": ("31/12/2023, 9:15 p.\u00a0m. - ", "31/12/2023, 9:16 p.\u00a0m. - "),
    "Android, Swedish": ("2023-12-31 21:15 - ", "2023-12-31 21:16 - "),
    "iOS, 24 h": ("[31.12.23, 21:15:03] ", f"{MARK}[31.12.23, 21:16:04] "),
    "iOS, 12 h": ("[12/31/23, 9:15:03\u202fPM] ", "[12/31/23, 9:16:04\u202fPM] "),
    "iOS, Hungarian": ("[2023. 12. 31. 21:15:03] ", "[2023. 12. 31. 21:16:04] "),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", ["_chat.txt", "chat", "chat.json"])
def test_a_chat_is_known_by_what_it_begins_with(tmp_path: Path, form: str, file: str) -> None:
    first, second = FORMS[form]
    found = read_text(
        tmp_path / file, f"{first}Ann: Hello", "", "Are you there?", f"{second}Bo Li: Yes: I am"
    )
    assert said(found.dialogue) == [("Ann", "Hello\n\nAre you there?"), ("Bo Li", "Yes: I am")]
    assert (found.unused, found.passed_over) == ({}, {})


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_bytes("\ufeff31.12.23, 21:15 - Ann: Hi\r\nthere\r\n".encode())
    assert said(read_file(path).dialogue) == [("Ann", "Hi\nthere")]


def test_what_the_app_writes_itself_is_counted_by_kind(tmp_path: Path) -> None:
    at = "12/31/23, 21:15 - "
    found = read_text(
        tmp_path / "android.txt",
        f"{at}Messages and calls are end-to-end encrypted.",
        f'{at}Ann changed the subject from "A: b" to "C"',
        f"{at}Ann: <Media omitted>",
        f"{at}Ann: <Medien ausgeschlossen>",
        f"{at}Ann: My report.pdf (file attached)",
        f"{at}Ann: IMG-2023-WA0001.jpg (archivo adjunto)",
        "look at that",
        f"{at}{ISOLATED}: This message was deleted",
        f"{at}{ISOLATED}: I meant <b> <This message was edited>",
        f"{at}Cem: null was omitted",
        f"{at}Cem: ",
    )
    assert said(found.dialogue) == [
        ("Ann", "look at that"),
        ("+49 151 55", "I meant <b>"),
        ("Cem", "null was omitted"),
    ]
    assert found.passed_over == {
        "WhatsApp: service messages": 2,
        "WhatsApp: media": 3,
        "WhatsApp: media beside words": 1,
        "WhatsApp: deleted messages": 1,
        "WhatsApp: messages without text": 1,
    }


def test_what_ios_writes_itself_begins_with_a_mark(tmp_path: Path) -> None:
    at = "[31/12/2023, 21:15:03] "
    found = read_text(
        tmp_path / "ios.txt",
        f"{at}Trip: {MARK}Messages and calls are end-to-end encrypted.",
        f"{at}Ann: {MARK}Ann hat dich hinzugefügt",
        f"{MARK}{at}Ann: {MARK}image omitted",
        f"{at}Ann: Bild weggelassen",
        f"{MARK}{at}Ann: {MARK}<attached: 0001-PHOTO.jpg>",
        f"{at}Ann: plan.pdf • {MARK}3 pages {MARK}document omitted",
        f"{at}Bo: {MARK}Du hast diese Nachricht gelöscht.",
        f"{at}Bo: See you {MARK}<This message was edited>",
        f"{at}Bo: {MARK}@Ann yes",
    )
    assert said(found.dialogue) == [("Bo", "See you"), ("Bo", "@Ann yes")]
    assert found.passed_over == {
        "WhatsApp: service messages": 2,
        "WhatsApp: media": 4,
        "WhatsApp: deleted messages": 1,
    }


def sessions(path: Path, *dates: str) -> list[int]:
    """The number of turns in each session of a chat with a message on each date."""
    found = read_text(path, *(f"{date} - Ann: hi" for date in dates), session_gap_hours=30.0)
    return [len(dialogue.turns) for dialogue in found.dialogues]


@pytest.mark.parametrize(
    ("dates", "turns"),
    [
        (["03/04/23, 9:00", "04/04/23, 9:00", "05/04/23, 9:00", "13/04/23, 9:00"], [3, 1]),
        (["03/04/23, 9:00", "03/05/23, 9:00", "03/06/23, 9:00", "03/14/23, 9:00"], [3, 1]),
        # No day beyond 12: time would go back
        (["04/12/23, 9:00", "05/01/23, 9:00"], [1, 1]),
        (["01/12/23, 9:00", "02/01/23, 9:00"], [1, 1]),
        (["03/04/23, 9:00", "04/04/23, 9:00"], [2]),
        (["04/03/23, 9:00 AM", "04/04/23, 9:00 AM"], [2]),
        (["04/03/23, 11:00 PM", "04/04/23, 12:10 AM"], [2]),
    ],
)
def test_the_order_of_a_date_is_that_of_the_whole_file(
    tmp_path: Path, dates: list[str], turns: list[int]
) -> None:
    assert sessions(tmp_path / "chat.txt", *dates) == turns


def test_a_clock_that_is_set_back_moves_no_message(tmp_path: Path) -> None:
    found = read_text(
        tmp_path / "chat.txt",
        "29.10.23, 02:59 - Ann: one",
        "29.10.23, 02:01 - Bo: two",
        "29.10.23, 12:00 - Ann: three",
    )
    assert [turn.utterance for turn in found.turns] == ["one", "two", "three"]


def test_a_line_that_begins_with_no_day_belongs_to_the_message_before(tmp_path: Path) -> None:
    lines = ("31.12.23, 21:15 - Ann: see", "99.99.23, 21:15 - Bo: quoted")
    found = read_text(tmp_path / "chat.txt", *lines)
    assert said(found.dialogue) == [("Ann", "see\n99.99.23, 21:15 - Bo: quoted")]


def test_a_folders_texts_are_chats_or_passed_over(tmp_path: Path) -> None:
    (tmp_path / "WhatsApp Chat with Bo.txt").write_text("31.12.23, 21:15 - Ann: Hi\n")
    (tmp_path / "notes.txt").write_text("2024-01-01 10:00:00 - INFO: started\n")
    files, passed_over = data_files(tmp_path)
    assert [file.name for file in files] == ["WhatsApp Chat with Bo.txt"]
    assert passed_over == ["notes.txt"]


def test_a_chat_that_is_not_utf8_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_bytes(b"31.12.23, 21:15 - Ann: caf\xe9\n")
    with pytest.raises(UserError, match="byte 26 is not UTF-8"):
        read_file(path)


# Slack


def message(user: str, text: str, second: float, **more: Any) -> dict[str, Any]:
    return {"type": "message", "user": user, "text": text, "ts": f"{second:.6f}", **more}


def ts(second: float) -> str:
    return f"{second:.6f}"


START = 1_700_000_000.0
DAYS = {
    "2023-11-14": [
        message("U1", "<@U1> has joined the channel", START, subtype="channel_join"),
        message("U1", "Shall we, <@U2>?", START + 1),
        message("U2", "Who &amp; when?", START + 2, thread_ts=ts(START + 2), reply_count=2),
        message("U3", "<https://a.example|the page>", START + 3),
        message("U1", "", START + 4, files=[{"id": "F1"}], subtype="file_share"),
        {
            **message("", "built", START + 5, subtype="bot_message", bot_id="B1"),
            "username": "robot",
            "reactions": [{"name": "ok"}],
        },
    ],
    "2023-11-15": [
        message("U1", "we two", START + 30_000, thread_ts=ts(START + 2)),
        message("U2", "good", START + 30_001, thread_ts=ts(START + 2), subtype="thread_broadcast"),
        message("U1", "still here?", START + 30_002),
        message("U9", "This message was deleted.", START + 30_003, subtype="tombstone"),
    ],
}
USERS = [
    {"id": "U1", "name": "ann", "profile": {"display_name": "Ann"}},
    {"id": "U2", "name": "bo", "real_name": "Bo Li", "profile": {"display_name": ""}},
    {"id": "U3", "name": "ann2", "profile": {"display_name": "Ann"}},
]


def export(folder: Path, users: Any = USERS) -> Path:
    """Two channels of an export."""
    for channel in ("general", "random"):
        (folder / channel).mkdir(parents=True)
        for day, rows in DAYS.items():
            (folder / channel / f"{day}.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "random" / "2023-11-13.json").write_text("[]")
    (folder / "channels.json").write_text('[{"id": "C1", "name": "general"}]')
    if users is not None:
        (folder / "users.json").write_text(json.dumps(users), encoding="utf-8")
    return folder


def prepared(path: Path, **changes: Any) -> tuple[dict[str, Dialogue], dict[str, Any]]:
    """All dialogues by id, and the ledger."""
    folder = path.parent / "prepared"
    folder.mkdir()
    settings = {"near_duplicate_threshold": 1.0, "deduplicate": "keep_all"} | changes
    ledger = prepare(path, data_params(**settings), folder)
    files = [folder / f"{name}.jsonl" for name in ("train", "val", "dropped")]
    return {d.dialogue_id: d for file in files for d in read_dialogues_in(file)}, ledger


def read_dialogues_in(file: Path) -> list[Dialogue]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    plain_lines = [{k: v for k, v in r.items() if k not in ("where", "reason")} for r in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in plain_lines), encoding="utf-8")
    return list(read_dialogues(file))


def test_a_slack_export_is_a_log_for_each_channel_and_a_dialogue_for_each_thread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, ledger = prepared(export(tmp_path / "slack"), session_gap_hours=6.0)
    thread = f"thread-{ts(START + 2)}"
    assert {*found} == {
        f"{channel}/{part}" for channel in ("general", "random") for part in ("1", "2", thread)
    }
    assert found["general/1"].turns == (
        Turn("Ann (ann)", "Shall we, @Bo Li?"),
        Turn("Ann (ann2)", "the page (https://a.example)"),
        Turn("robot", "built"),
    )
    assert said(found["general/2"]) == [("Ann (ann)", "still here?")]
    assert said(found[f"random/{thread}"]) == [
        ("Bo Li", "Who & when?"),
        ("Ann (ann)", "we two"),
        ("Bo Li", "good"),
    ]
    assert ledger["num_passed_over"] == {
        "Slack: channel_join messages": 2,
        "Slack: media": 2,
        "Slack: deleted messages": 2,
    }
    assert ledger["num_unused_keys"] == {"message.reactions": 2}
    shown = capsys.readouterr()
    assert "channels.json" in shown.out + shown.err


def test_a_day_of_a_channel_by_itself_has_the_names_that_it_tells(tmp_path: Path) -> None:
    rows = [
        message("U1", "Hello <@U2>", START, user_profile={"display_name": "Ann"}),
        message("U2", "Hi <@U1>", START + 1),
    ]
    path = tmp_path / "2023-11-14.json"
    path.write_text(json.dumps([*rows, 7]))
    found = read_file(path)
    [record] = [record for record in found.records if record.dialogue]
    assert record.dialogue and said(record.dialogue) == [("Ann", "Hello @U2"), ("U2", "Hi @Ann")]
    assert [r.where for r in found.records if r.fault] == [f"{path}, record 3"]


def test_without_users_ids_stand_for_names_and_other_lists_of_users_are_refused(
    tmp_path: Path,
) -> None:
    found, _ = prepared(export(tmp_path / "a" / "slack", None), session_gap_hours=6.0)
    assert said(found["general/1"])[0] == ("U1", "Shall we, @U2?")
    with pytest.raises(UserError, match=r"users\.json: wanted Slack's list of users"):
        prepared(export(tmp_path / "b" / "slack", {"U1": "Ann"}))


def test_folders_of_days_of_other_dialogues_are_files_as_any(tmp_path: Path) -> None:
    (tmp_path / "x" / "days").mkdir(parents=True)
    for day in ("2023-11-14", "2023-11-15"):
        record = {"turns": [{"speaker": "A", "text": day}, {"speaker": "B", "text": f"no, {day}"}]}
        (tmp_path / "x" / "days" / f"{day}.json").write_text(json.dumps([record] * 2))
    found, _ = prepared(tmp_path / "x", validation_fraction=0.5)
    assert {name.rpartition(":")[0].partition("~")[0] for name in found} == {
        "days/2023-11-14.json",
        "days/2023-11-15.json",
    }


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<!here> see <#C1|general>", "@here see #general"),
        ("<!subteam^S1|@team> &lt;3", "@team <3"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("<http://b.example|b.example>", "b.example"),
        ("<@U7|cem> and <@U8>", "@cem and @U8"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ],
)
def test_slacks_references_are_shown_as_people_see_them(written: str, shown: str) -> None:
    assert plain(written, {}) == shown
