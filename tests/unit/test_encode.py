"""Encode needs something to train, gives every speaker a token, and writes what numpy can map."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.encode import encode, main
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.run.errors import UserError
from tuning.run.params import EncodingParams
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.rows import PackedRows
from tuning.windows import WindowWriter

ROOT = Path(__file__).parents[2]
PAIR = Dialogue("pair", (Turn("ann", "Hello"), Turn("bob", "Hi, ann")))
TRIO = Dialogue("trio", (Turn("ann", "Hello"), Turn("bob", "Hi"), Turn("cem", "Hi both")))


def write_parts(prepared: Path, files: dict[str, list[str]] | None = None) -> None:
    """Write files of lines, by default one dialogue on each side."""
    parts = {"train": [to_line(PAIR)], "val": [to_line(PAIR)], "dropped": []} | (files or {})
    prepared.mkdir()
    for name, lines in parts.items():
        (prepared / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))


def encoded(
    tmp_path: Path,
    base: Path,
    files: dict[str, list[str]] | None = None,
    *,
    loss_on: str = "all",
    num_speakers: int = 3,
) -> dict[str, Any]:
    """Encode files of lines."""
    prepared, folder = tmp_path / "prepared", tmp_path / "encoded"
    write_parts(prepared, files)
    folder.mkdir()
    encoding = EncodingParams(max_length=16, context_turns=1, loss_on=loss_on)
    return encode(prepared, base, folder, encoding, num_speakers)


def arrays(folder: Path) -> dict[str, list[Any]]:
    return {file.stem: np.load(file).tolist() for file in folder.glob("*.npy")}


def test_a_name_that_nobody_has_is_an_error_that_names_those_who_are_there(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, tiny_base, loss_on="Ann")
    assert str(caught.value) == (
        "encoding.loss_on: 'Ann' trains no turn at all; wanted all, last, or one of the speakers "
        "(ann, bob, …)."
    )


@pytest.mark.parametrize(("most_speakers", "num_tokens"), [(1.0, 2), (2.0, 2), (3.0, 3)])
def test_there_is_a_token_for_every_speaker_that_prep_counted(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_speakers: float,
    num_tokens: int,
) -> None:
    """And for two at least; what prep counted in dialogues is in the preview too."""
    few_turns = '{"where": "x.jsonl:7", "reason": "few_turns", ' + to_line(TRIO)[1:]
    write_parts(tmp_path / "prepared", {"dropped": [few_turns]})
    counts = {"train": 1, "validation": 1, "test": 0, "dropped_few_turns": 1234, "input": 1236}
    ledger = {
        "num_people_per_dialogue": {"max": most_speakers},
        "num_turns_by_role": {},
        "num_dialogues": counts,
    }
    (tmp_path / "prep.json").write_text(json.dumps(ledger))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = {"prepared": "prepared", "ledger": "prep.json", "base": str(tiny_base)}
    arguments |= {"lock": "params.yaml", "encoded": "encoded", "metrics": "encode.json"}
    pairs = [(f"--{name}", value) for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", ["encode", *chain(*pairs), "--preview", "preview.html"])
    main()
    vocabulary = load_tokenizer(tmp_path / "encoded" / "tokenizer").get_vocab()
    assert [n for n in range(9) if f"<|speaker{n}|>" in vocabulary] == [*range(1, num_tokens + 1)]
    assert json.loads(Path("encode.json").read_text())["num_speaker_tokens"] == num_tokens
    page = Path("preview.html").read_text(encoding="utf-8")
    assert "1,236 dialogues" in page and "dropped: few turns</th><td>1,234</td>" in page


def test_a_dropped_dialogues_speakers_need_no_token_but_its_tokens_are_counted(
    tiny_base: Path, tmp_path: Path
) -> None:
    line = '{"where": "x.jsonl:7", "reason": "few_turns", ' + to_line(TRIO)[1:]
    metrics = encoded(tmp_path, tiny_base, {"dropped": [line]}, num_speakers=2)
    tokenizer = load_tokenizer(tiny_base)
    num_tokens = sum(len(tokenizer.tokenize(turn.utterance)) + 2 for turn in TRIO.turns)
    assert metrics["num_tokens"]["dropped_few_turns"] == num_tokens


@pytest.mark.parametrize("loss_on", ["all", "last", "ann"])
def test_validation_windows_are_what_training_on_that_side_would_make(
    tiny_base: Path, tmp_path: Path, loss_on: str
) -> None:
    """So each of its target tokens is scored once, and the training windows know nothing of it."""
    long = Dialogue("long", TRIO.turns * 4 + PAIR.turns)
    one, other = [to_line(PAIR)], [to_line(long), to_line(TRIO)]
    folders = [tmp_path / name for name in ("there", "swapped", "alone")]
    parts = [{"train": one, "val": other}, {"train": other, "val": one}, {"train": one, "val": []}]
    ledgers = []
    for folder, files in zip(folders, parts, strict=True):
        folder.mkdir()
        ledgers.append(encoded(folder, tiny_base, files, loss_on=loss_on))
    there, swapped, alone = (arrays(folder / "encoded") for folder in folders)
    assert arrays(folders[0] / "encoded" / "validation") == swapped
    assert arrays(folders[1] / "encoded" / "validation") == there == alone
    assert len(swapped["window_starts"]) > 2
    assert ledgers[0]["num_tokens"]["validation"] == sum(
        ledgers[1]["num_tokens"][name] for name in ("trained", "context", "truncated")
    )
    other_facts = {name: fact for name, fact in ledgers[0].items() if name != "num_tokens"}
    assert other_facts.items() <= ledgers[2].items()


@pytest.mark.parametrize("how", ["missing", "empty", "without a target"])
def test_there_may_be_nothing_to_validate_on(tiny_base: Path, tmp_path: Path, how: str) -> None:
    train = to_line(Dialogue("zoes", (Turn("zoe", "Hello"), Turn("bob", "Hi"))))
    val = [to_line(PAIR)] if how == "without a target" else []
    write_parts(tmp_path / "prepared", {"train": [train], "val": val})
    if how == "missing":
        (tmp_path / "prepared" / "val.jsonl").unlink()
    folder = tmp_path / "encoded"
    folder.mkdir()
    encoding = EncodingParams(max_length=16, context_turns=1, loss_on="zoe")
    metrics = encode(tmp_path / "prepared", tiny_base, folder, encoding, num_speakers=2)
    assert (metrics["num_tokens"]["validation"] > 0) == bool(val)
    assert arrays(folder / "validation") == {
        "input_ids": [],
        "is_target": [],
        "window_starts": [0],
    }
    rows = PackedRows(folder / "validation", max_length=16, packing=True, pad_token_id=0)
    assert len(rows) == 0


def test_arrays_written_in_parts_are_read_as_one(tmp_path: Path) -> None:
    parts = [np.arange(n, dtype=np.int32) for n in (3, 0, 100_000, 7)]
    with WindowWriter(tmp_path) as writer:
        for part in parts:
            writer.add(part, part % 2 == 0, [len(part)] if len(part) else [])
    whole = np.concatenate(parts)
    assert np.array_equal(np.load(tmp_path / "input_ids.npy", mmap_mode="r"), whole)
    assert np.array_equal(np.load(tmp_path / "is_target.npy"), whole % 2 == 0)
    assert np.load(tmp_path / "window_starts.npy").tolist() == [0, 3, 100_003, 100_010]
