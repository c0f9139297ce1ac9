"""Encode needs something to train, gives every speaker a token, and writes what numpy can map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.corpus.dialogue import Dialogue, Turn, to_line
from stages.encode import encode
from stages.encoding.dataset import WindowWriter
from stages.encoding.speakers import load_tokenizer
from stages.errors import UserError
from stages.params import EncodingParams

PAIR = Dialogue("pair", (Turn("ann", "Hello"), Turn("bob", "Hi, ann")))
TRIO = Dialogue("trio", (Turn("ann", "Hello"), Turn("bob", "Hi"), Turn("cem", "Hi both")))


def encoded(
    tmp_path: Path,
    base: Path,
    files: dict[str, list[str]] | None = None,
    *,
    loss_on: str = "all",
) -> dict[str, Any]:
    """Encode files of lines, by default one dialogue on each side."""
    prepared, folder = tmp_path / "prepared", tmp_path / "encoded"
    prepared.mkdir()
    folder.mkdir()
    parts = {"train": [to_line(PAIR)], "val": [to_line(PAIR)], "dropped": []} | (files or {})
    for name, lines in parts.items():
        (prepared / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return encode(
        prepared, base, folder, EncodingParams(max_length=16, context_turns=0, loss_on=loss_on)
    )


def test_a_name_that_nobody_has_is_an_error_that_names_those_who_are_there(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, tiny_base, loss_on="Ann")
    assert str(caught.value) == (
        "encoding.loss_on: 'Ann' trains no turn at all; wanted all, last, or one of the speakers "
        "(ann, bob, …)."
    )


@pytest.mark.parametrize("side", ["train", "val", "test"])
def test_there_is_a_token_for_every_speaker_of_any_side(
    tiny_base: Path, tmp_path: Path, side: str
) -> None:
    metrics = encoded(tmp_path, tiny_base, {side: [to_line(PAIR), to_line(TRIO)]})
    assert metrics["num_speaker_tokens"] == 3
    vocabulary = load_tokenizer(tmp_path / "encoded" / "tokenizer").get_vocab()
    assert "<|speaker3|>" in vocabulary
    assert "<|speaker4|>" not in vocabulary


def test_a_dropped_dialogues_speakers_need_no_token_but_its_tokens_are_counted(
    tiny_base: Path, tmp_path: Path
) -> None:
    line = '{"where": "x.jsonl:7", "reason": "few_turns", ' + to_line(TRIO)[1:]
    metrics = encoded(tmp_path, tiny_base, {"dropped": [line]})
    assert metrics["num_speaker_tokens"] == 2
    tokenizer = load_tokenizer(tiny_base)
    num_tokens = sum(len(tokenizer.tokenize(turn.utterance)) + 2 for turn in TRIO.turns)
    assert metrics["num_tokens"]["dropped_few_turns"] == num_tokens


def test_a_monologue_still_has_the_tokens_of_two(tiny_base: Path, tmp_path: Path) -> None:
    alone = [to_line(Dialogue("alone", (Turn("ann", "Hello?"),)))]
    metrics = encoded(tmp_path, tiny_base, {"train": alone, "val": alone})
    assert metrics["num_speaker_tokens"] == 2


def test_arrays_written_in_parts_are_read_as_one(tmp_path: Path) -> None:
    parts = [np.arange(n, dtype=np.int32) for n in (3, 0, 100_000, 7)]
    with WindowWriter(tmp_path) as writer:
        for part in parts:
            writer.add(part, part % 2 == 0, [len(part)] if len(part) else [])
    whole = np.concatenate(parts)
    assert np.array_equal(np.load(tmp_path / "input_ids.npy", mmap_mode="r"), whole)
    assert np.array_equal(np.load(tmp_path / "is_target.npy"), whole % 2 == 0)
    assert np.load(tmp_path / "window_starts.npy").tolist() == [0, 3, 100_003, 100_010]
