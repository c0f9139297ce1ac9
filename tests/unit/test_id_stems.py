"""Ids that look like pieces of one conversation are said, with the setting that helps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.corpora import Prepared, as_record, generated, prepare_records


def printed(capsys: pytest.CaptureFixture[str], ids: list[str], **changes: Any) -> tuple[str, Any]:
    """What prep says of pieces of dialogues with these ids, and what it made of them."""
    key = changes.pop("key", "id")
    records = [
        {**as_record(dialogue), "id": None, key: name}
        for dialogue, name in zip(generated(len(ids)), ids, strict=True)
    ]
    prepared = prepare_records(records, **changes)
    lines = [line for line in capsys.readouterr().out.splitlines() if "look like pieces" in line]
    return "".join(lines), prepared


def straddling(prepared: Prepared, mark: str) -> set[str]:
    """The stems of ids that are on both sides."""
    stems = [
        {dialogue.dialogue_id.rpartition(mark)[0] for dialogue in side}
        for side in prepared.sides.values()
    ]
    return set.intersection(*stems)


@pytest.mark.parametrize("mark", ["_", "-", "/", "."])
@pytest.mark.parametrize("key", ["id", "conversation_id"])
def test_the_setting_that_is_named_keeps_pieces_on_one_side(
    capsys: pytest.CaptureFixture[str], mark: str, key: str
) -> None:
    ids = [f"ab{number}x{mark}{part * 57}" for number in range(20) for part in range(4)]
    said, prepared = printed(capsys, ids, key=key)
    split = straddling(prepared, mark)
    assert "80 of 80 dialogues have ids that look like pieces of 20 conversations (" in said
    assert f"of which {len(split)} stand on both sides" in said
    assert len(split) > 5
    setting = re.search(r'data\.group_by: "(.*)"$', said)
    assert setting
    again, grouped = printed(capsys, ids, key=key, group_by=setting[1])
    assert (again, straddling(grouped, mark)) == ("", set())


NUMBERED = {
    "no number at the end": [f"{n}_a" for n in range(80)],
    "one name": [f"talk_{n}" for n in range(80)],
    "names of parts": [f"{'train' if n < 70 else 'test'}_{n}" for n in range(80)],
    "one beside others": [f"talk_{n}" if n % 4 else f"a{n}_1" for n in range(80)],
    "few beside many": [
        *(f"a{n}_{part}" for n in range(8) for part in range(2)),
        *(f"talk {n}" for n in range(184)),
    ],
    "each its own": [f"a{n}_0" for n in range(80)],
}


@pytest.mark.parametrize("name", NUMBERED)
def test_ids_that_are_merely_numbered_are_no_pieces(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    said, _ = printed(capsys, NUMBERED[name])
    assert said == ""


def test_the_sessions_of_a_log_and_lines_without_ids_are_no_pieces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, _ = printed(capsys, [f"chat {n}" for n in range(20)], session_turns=2)
    assert said == ""
