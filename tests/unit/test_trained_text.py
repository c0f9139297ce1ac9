"""From records of assistants to targets: what the data keeps out of training is never one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.encode import encode
from stages.prep import prepare
from tests.corpora import WORDS, Prepared, data_params, encoding_params, prepare_records, tool, user
from tuning.dialogue import trained_turns
from tuning.tokens.tokenizer import load_tokenizer


def words(number: int, salt: int) -> str:
    """Six words that no other turn has in this order."""
    return " ".join(WORDS[(number * 7 + salt * 13 + step * step) % len(WORDS)] for step in range(6))


def record(number: int) -> dict[str, Any]:
    """A dialogue whose texts say in capitals whether they are to be trained."""
    return {
        "id": number,
        "system": "NEVER system",
        "messages": [
            {"role": "user", "content": f"TRAINED {words(number, 1)}"},
            {"role": "assistant", "content": f"NEVER weight {words(number, 2)}", "weight": 0},
            {"role": "user", "content": f"NEVER flag {words(number, 3)}", "train": "false"},
            {"role": "assistant", "tool_calls": [{"name": "TRAINED", "arguments": {"n": number}}]},
            {"role": "tool", "content": f"NEVER tool {words(number, 4)}"},
            {"role": "assistant", "content": f"TRAINED {words(number, 5)}"},
        ],
        "tools": [{"name": "TRAINED"}],
        "rating": 3,
    }


PAIR = {
    "prompt": [{"role": "user", "content": "NEVER prompt of a pair"}],
    "completion": [{"role": "assistant", "content": "TRAINED answer of a pair"}],
}
FLAGGED = {
    "conversations": [{"from": "human", "value": "NEVER as"}, {"from": "gpt", "value": "NEVER is"}],
    "weight": 0,
}
RECORDS = [*map(record, range(20)), PAIR, FLAGGED]


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare_records(RECORDS, min_speakers=2, min_turns=2)


def test_roles_count_as_speakers_and_nothing_is_left_out(prepared: Prepared) -> None:
    assert len(prepared.kept) == len(RECORDS)
    assert prepared.dropped == []
    assert prepared.ledger["num_unused_keys"] == {"rating": 20}
    assert prepared.ledger["num_invalid"] == {}


def test_what_is_trained_is_what_the_data_says(prepared: Prepared) -> None:
    for dialogue in prepared.kept:
        trained = trained_turns(dialogue.turns, "all")
        for turn, is_trained in zip(dialogue.turns, trained, strict=True):
            assert ("TRAINED" in turn.text) == is_trained
            assert ("NEVER" in turn.text) == (not is_trained)


@pytest.mark.parametrize("max_length", [512, 64])
@pytest.mark.parametrize("loss_on", ["all", "assistant", "auto", "last"])
def test_no_target_token_is_of_a_turn_that_is_never_trained(
    tiny_base: Path, tmp_path: Path, loss_on: str, max_length: int
) -> None:
    path, parts, encoded = (tmp_path / name for name in ("mine.jsonl", "prepared", "encoded"))
    path.write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    parts.mkdir()
    encoded.mkdir()
    ledger = prepare(path, data_params(min_speakers=2, min_turns=2), parts)
    assert ledger["num_turns_by_role"]["tool"] == 20
    encoding = encoding_params(max_length=max_length, loss_on=loss_on)
    encode(parts, tiny_base, encoded, encoding, 0, has_roles=True)
    tokenizer = load_tokenizer(encoded / "tokenizer")
    trained = ""
    for folder in (encoded, encoded / "validation"):
        ids, is_target = (np.load(folder / f"{name}.npy") for name in ("input_ids", "is_target"))
        trained += str(tokenizer.decode(ids[is_target]))
    assert "NEVER" not in trained
    num_trained = {"all": 3 * 20 + 1, "last": 20 + 1}.get(loss_on, 2 * 20 + 1)
    assert trained.count("TRAINED") == num_trained


@pytest.mark.parametrize(
    ("records", "bucket"),
    [
        ([{"messages": [{"role": "user", "content": f"only {n}"}]} for n in range(3)], "speakers"),
        ([{"messages": []}, [], {"system": "Be kind.", "messages": []}], "speakers"),
        (
            [
                {"turns": [{"speaker": s, "text": f"{n}"} for s in ("a", "b")], "id": n}
                for n in range(3)
            ],
            "turns",
        ),
    ],
)
def test_too_few_speakers_or_turns_are_left_out_and_counted(
    records: list[Any], bucket: str
) -> None:
    found = prepare_records([*map(record, range(20)), *records], min_speakers=2, min_turns=3)
    assert len(found.kept) == 20
    assert found.ledger["num_dialogues"][f"dropped_few_{bucket}"] == 3


def test_what_prep_writes_holds_all_that_was_read(prepared: Prepared) -> None:
    [dialogue] = [d for d in prepared.kept if d.dialogue_id == "7"]
    assert dialogue.turns[3] == user(f"NEVER flag {words(7, 3)}", weight=0.0)
    assert dialogue.turns[5] == tool(f"NEVER tool {words(7, 4)}")
    assert dialogue.turns[4].text == '{"name": "TRAINED", "arguments": {"n": 7}}'
    assert dialogue.tools == '[{"name": "TRAINED"}]'
