"""Every dialogue, turn, character and token of the input is in exactly one bucket."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.encode import encode
from stages.prep import prepare
from tests.corpora import as_record, corpora, data_params, generated, nearly
from tuning.dialogue import Dialogue, Turn
from tuning.run.params import EncodingParams
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


@given(
    drawn=corpora(),
    before=blanks,
    after=blanks,
    min_speakers=st.integers(1, 2),
    min_turns=st.integers(1, 3),
    max_dialogues=st.sampled_from([None, 50]),
    invalid=st.lists(st.sampled_from(INVALID), max_size=3),
    loss_on=st.sampled_from(["all", "last", "a"]),
    max_length=st.sampled_from([16, 40]),
    context_turns=st.integers(0, 2),
    deduplicate=st.sampled_from(["keep_one", "keep_all"]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_sums_match_the_input(
    tiny_base: Path,
    drawn: list[Dialogue],
    before: str,
    after: str,
    min_speakers: int,
    min_turns: int,
    max_dialogues: int | None,
    invalid: list[Any],
    loss_on: str,
    max_length: int,
    context_turns: int,
    deduplicate: str,
) -> None:
    base = generated(70)
    corpus = [*drawn, *base, *(nearly(d, f"near-{n}", "zzz") for n, d in enumerate(base[:6]))]
    records = [*(white_space_added(d, before, after) for d in corpus), *invalid]
    with tempfile.TemporaryDirectory() as name:
        path, prepared, encoded = (Path(name) / part for part in ("in.jsonl", "p", "e"))
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        prepared.mkdir()
        encoded.mkdir()
        ledger = prepare(
            path,
            data_params(
                on_invalid="skip",
                min_speakers=min_speakers,
                min_turns=min_turns,
                max_dialogues=max_dialogues,
                deduplicate=deduplicate,
                test_fraction=0.1,
            ),
            prepared,
        )
        encoding = EncodingParams(
            max_length=max_length, context_turns=context_turns, loss_on=loss_on
        )
        most_speakers = ledger["num_speakers_per_dialogue"]["max"]
        tokens = encode(prepared, tiny_base, encoded, encoding, max(2, int(most_speakers)))
        files = {
            file.stem: [json.loads(line) for line in file.read_bytes().splitlines()]
            for file in prepared.iterdir()
            if file.stem != "private"
        }
        rows = PackedRows(encoded, max_length=max_length, packing=True, pad_token_id=0)
        num_target_tokens, num_row_tokens = rows.num_target_tokens, len(rows.windows.input_ids)
        num_validation_targets = int(np.load(encoded / "validation" / "is_target.npy").sum())
        tokenizer = load_tokenizer(encoded / "tokenizer")

    # What went in, counted here
    clean = [
        Dialogue(
            d.dialogue_id,
            tuple(
                Turn(t.speaker, stripped)
                for t in d.turns
                if (stripped := (before + t.utterance + after).strip())
            ),
        )
        for d in corpus
    ]
    raw = [turn["text"] for record in records[: len(corpus)] for turn in record["turns"]]
    for name, total in (
        ("num_dialogues", len(records)),
        ("num_turns", len(raw)),
        ("num_characters", sum(map(len, raw))),
    ):
        buckets = dict(ledger[name])
        assert buckets.pop("input") == total
        assert sum(buckets.values()) == total
        assert min(buckets.values()) >= 0

    # What came out, counted from the files: bucket by bucket
    of_bucket: dict[str, list[dict[str, Any]]] = {
        "train": files["train"],
        "validation": files["val"],
        "test": files["test"],
    }
    for record in files["dropped"]:
        of_bucket.setdefault(f"dropped_{record['reason']}", []).append(record)
    for bucket, found in of_bucket.items():
        assert ledger["num_dialogues"][bucket] == len(found)
        assert ledger["num_turns"][bucket] == sum(len(r["turns"]) for r in found)
        assert ledger["num_characters"][bucket] == sum(
            len(t["utterance"]) for r in found for t in r["turns"]
        )
    assert ledger["num_dialogues"]["dropped_invalid"] == len(invalid)
    assert sum(ledger["num_invalid"].values()) == len(invalid)
    assert Counter(r["dialogue_id"] for f in files.values() for r in f) == Counter(
        d.dialogue_id for d in clean
    )

    of_sides = [record for side in ("train", "val", "test") for record in files[side]]
    assert most_speakers == max(len({t["speaker"] for t in r["turns"]}) for r in of_sides)

    # Tokens, from encoding every clean turn once more: a tag, its text, an end
    num_tokens = {
        d.dialogue_id: sum(len(tokenizer.tokenize(t.utterance)) + 2 for t in d.turns) for d in clean
    }
    buckets = dict(tokens["num_tokens"])
    assert buckets.pop("input") == sum(num_tokens.values()) == sum(buckets.values())
    of_train = sum(num_tokens[r["dialogue_id"]] for r in files["train"])
    assert buckets["trained"] + buckets["context"] + buckets["truncated"] == of_train
    assert buckets["trained"] == num_target_tokens
    assert buckets["trained"] + buckets["context"] == num_row_tokens - tokens["num_repeated_tokens"]
    for bucket, found in of_bucket.items():
        if bucket != "train":
            assert buckets.get(bucket, 0) == sum(num_tokens[r["dialogue_id"]] for r in found)
    if loss_on == "all":
        assert buckets["truncated"] == 0
        num_turns = sum(len(record["turns"]) for record in files["val"])
        assert num_validation_targets == buckets["validation"] - num_turns  # all but the tags


@pytest.mark.parametrize("with_tokens_of", ["all", "last", "a"])
def test_packing_leaves_little_room(tiny_base: Path, tmp_path: Path, with_tokens_of: str) -> None:
    records = [as_record(dialogue) for dialogue in generated(300, num_turns=9)]
    path, prepared, encoded = (tmp_path / part for part in ("in.jsonl", "p", "e"))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    prepared.mkdir()
    encoded.mkdir()
    prepare(path, data_params(), prepared)
    encoding = EncodingParams(max_length=512, context_turns=2, loss_on=with_tokens_of)
    metrics = encode(prepared, tiny_base, encoded, encoding, num_speakers=2)
    rows = PackedRows(encoded, max_length=512, packing=True, pad_token_id=0)
    assert metrics["packing_efficiency"] == rows.packing_efficiency
    assert metrics["num_windows"] == len(rows.windows.window_starts) - 1
    assert metrics["num_tokens_per_window"]["max"] <= 512
