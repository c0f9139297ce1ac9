"""Every dialogue, turn, character and token of the input is in exactly one bucket."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.encode import encode
from stages.prep import prepare
from tests.corpora import as_record, corpora, data_params, encoding_params, generated, nearly
from tests.thorough import few_or_all
from tuning.dialogue import Dialogue
from tuning.run.params import DataParams, EncodingParams
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.rows import PackedRows

blanks = st.sampled_from(["", " ", "\n", "\t \n", "\u2003"])
INVALID: list[Any] = [
    {"turns": None},
    {"turns": [{"speaker": None, "text": "who says it?"}]},
    {"turns": [{"speaker": "a", "text": 7}]},
    "text",
]


def white_space_added(dialogue: Dialogue, before: str, after: str) -> dict[str, Any]:
    """A record with blanks around every utterance, and a turn of blanks at its end."""
    turns = [{"speaker": t.speaker, "text": before + t.utterance + after} for t in dialogue.turns]
    return {"id": dialogue.dialogue_id, "turns": [*turns, {"speaker": "z", "text": before}]}


SIDES_AND_DROPPED = ("train", "val", "test", "dropped")


@dataclass(frozen=True)
class Written:
    """What prep and encode wrote of records, and their ledgers."""

    ledger: dict[str, Any]
    tokens: dict[str, Any]
    files: dict[str, list[dict[str, Any]]]
    """The lines of prep's files."""
    num_target_tokens: int
    """Of the rows that are trained on, like the next one."""
    num_row_tokens: int
    num_validation_targets: int
    num_tokens_of: Callable[[str], int]
    """The tokens of a text."""

    def buckets(self) -> dict[str, list[dict[str, Any]]]:
        """The dialogues in the files, by the ledger's names of where they went."""
        sides = {"train": "train", "validation": "val", "test": "test"}
        found = {bucket: self.files[side] for bucket, side in sides.items()}
        for record in self.files["dropped"]:
            found.setdefault(f"dropped_{record['reason']}", []).append(record)
        return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def written(base: Path, records: list[Any], data: DataParams, encoding: EncodingParams) -> Written:
    """Run prep and encode on records, one on a line."""
    with tempfile.TemporaryDirectory() as name:
        path, prepared, encoded = (Path(name) / part for part in ("in.jsonl", "p", "e"))
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        prepared.mkdir()
        encoded.mkdir()
        ledger = prepare(path, data, prepared)
        most_speakers = int(ledger["num_speakers_per_dialogue"]["max"])
        tokens = encode(prepared, base, encoded, encoding, max(2, most_speakers))
        rows = PackedRows(encoded, max_length=encoding.max_length, packing=True, pad_token_id=0)
        tokenizer = load_tokenizer(encoded / "tokenizer")
        return Written(
            ledger,
            tokens,
            {side: lines_of(prepared / f"{side}.jsonl") for side in SIDES_AND_DROPPED},
            rows.num_target_tokens,
            len(rows.windows.input_ids),
            int(np.load(encoded / "validation" / "is_target.npy").sum()),
            lambda text: len(tokenizer.tokenize(text)),
        )


@given(
    drawn=corpora(),
    white_space=st.tuples(blanks, blanks),
    invalid=st.lists(st.sampled_from(INVALID), max_size=3),
    data=st.fixed_dictionaries(
        {
            "min_speakers": st.integers(1, 2),
            "min_turns": st.integers(1, 3),
            "max_dialogues": st.sampled_from([None, 50]),
            "deduplicate": st.sampled_from(["keep_one", "keep_all"]),
        }
    ),
    encoding=st.builds(
        encoding_params,
        max_length=st.sampled_from([16, 40]),
        min_context=st.integers(1, 20),
        loss_on=st.sampled_from(["all", "last", "a"]),
    ),
)
@settings(max_examples=few_or_all(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_sums_match_the_input(
    tiny_base: Path,
    drawn: list[Dialogue],
    white_space: tuple[str, str],
    invalid: list[Any],
    data: dict[str, Any],
    encoding: EncodingParams,
) -> None:
    base = generated(70)
    corpus = [*drawn, *base, *(nearly(d, f"near-{n}", "zzz") for n, d in enumerate(base[:6]))]
    records = [white_space_added(dialogue, *white_space) for dialogue in corpus]
    settings_of_data = data_params(on_invalid="skip", test_fraction=0.1, **data)
    found = written(tiny_base, [*records, *invalid], settings_of_data, encoding)
    texts = {record["id"]: clean_texts(record) for record in records}

    check_the_input(found.ledger, records, len(invalid))
    check_the_files(found, texts)
    check_the_tokens(found, texts, str(encoding.loss_on))


def clean_texts(record: dict[str, Any]) -> list[str]:
    """A record's texts that hold something, without white space round them."""
    return [text for turn in record["turns"] if (text := turn["text"].strip())]


def check_the_input(ledger: dict[str, Any], records: list[Any], num_invalid: int) -> None:
    """What went in, counted here, is the sum of the buckets."""
    raw = [turn["text"] for record in records for turn in record["turns"]]
    for name, total in (
        ("num_dialogues", len(records) + num_invalid),
        ("num_turns", len(raw)),
        ("num_characters", sum(map(len, raw))),
    ):
        buckets = dict(ledger[name])
        assert buckets.pop("input") == total
        assert sum(buckets.values()) == total
        assert min(buckets.values()) >= 0
    assert ledger["num_dialogues"]["dropped_invalid"] == num_invalid
    assert sum(ledger["num_invalid"].values()) == num_invalid


def check_the_files(found: Written, texts: dict[str, list[str]]) -> None:
    """What came out, counted from the files, is what each bucket says, and every dialogue once."""
    for bucket, records in found.buckets().items():
        utterances = [turn["utterance"] for record in records for turn in record["turns"]]
        assert found.ledger["num_dialogues"][bucket] == len(records)
        assert found.ledger["num_turns"][bucket] == len(utterances)
        assert found.ledger["num_characters"][bucket] == sum(map(len, utterances))
    ids = Counter(record["dialogue_id"] for file in found.files.values() for record in file)
    assert ids == Counter(texts.keys())
    of_sides = [record for side in ("train", "val", "test") for record in found.files[side]]
    most_speakers = max(len({turn["speaker"] for turn in record["turns"]}) for record in of_sides)
    assert found.ledger["num_speakers_per_dialogue"]["max"] == most_speakers


def check_the_tokens(found: Written, texts: dict[str, list[str]], loss_on: str) -> None:
    """Tokens, from encoding every clean turn once more: a tag, its text, an end."""
    num_tokens = {
        name: sum(found.num_tokens_of(text) + 2 for text in said) for name, said in texts.items()
    }

    def num_tokens_in(records: list[dict[str, Any]]) -> int:
        return sum(num_tokens[record["dialogue_id"]] for record in records)

    buckets = dict(found.tokens["num_tokens"])
    assert buckets.pop("input") == sum(num_tokens.values()) == sum(buckets.values())
    of_train = buckets["trained"] + buckets["context"] + buckets["truncated"]
    assert of_train == num_tokens_in(found.files["train"])
    assert buckets["trained"] == found.num_target_tokens
    num_repeated = found.tokens["num_repeated_tokens"]
    assert buckets["trained"] + buckets["context"] == found.num_row_tokens - num_repeated
    for bucket, records in found.buckets().items():
        if bucket != "train":
            assert buckets.get(bucket, 0) == num_tokens_in(records)
    if loss_on == "all":
        assert buckets["truncated"] == 0
        num_turns = sum(len(record["turns"]) for record in found.files["val"])
        num_tags = num_turns  # which are no targets
        assert found.num_validation_targets == buckets["validation"] - num_tags


@pytest.mark.parametrize("with_tokens_of", ["all", "last", "a"])
def test_packing_leaves_little_room(tiny_base: Path, tmp_path: Path, with_tokens_of: str) -> None:
    records = [as_record(dialogue) for dialogue in generated(300, num_turns=9)]
    path, prepared, encoded = (tmp_path / part for part in ("in.jsonl", "p", "e"))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    prepared.mkdir()
    encoded.mkdir()
    prepare(path, data_params(), prepared)
    encoding = encoding_params(max_length=512, loss_on=with_tokens_of)
    metrics = encode(prepared, tiny_base, encoded, encoding, num_speakers=2)
    rows = PackedRows(encoded, max_length=512, packing=True, pad_token_id=0)
    assert metrics["packing_efficiency"] == rows.packing_efficiency
    assert metrics["num_windows"] == len(rows.windows.window_starts) - 1
    assert metrics["num_tokens_per_window"]["max"] <= 512
