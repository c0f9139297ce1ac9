"""A full disk is one message with the place, what it was to take and what is free; half of nothing.

``tests/pipeline/test_pipeline.py`` has the same of every stage.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from stages.prep import prepare
from tests.corpora import as_record, data_params, generated
from tests.full_disk import NEEDS, WHAT_TO_DO, full_disk
from tools.judge.votes import append
from tuning.corpus.catalogue import Catalogue
from tuning.corpus.cleaning import ROW, CleanPiece
from tuning.run.errors import UserError
from tuning.run.files import (
    DiskFullError,
    disk_errors,
    failure_in,
    new_folder,
    told,
    write_csv,
    write_json,
    write_text,
)
from tuning.tokens.tokenizer import load_tokenizer
from tuning.windows import WindowWriter

RECORDS = "".join(f"{json.dumps(as_record(one))}\n" for one in generated(60))


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tiny_base)


WRITERS: dict[str, Callable[[Path, PreTrainedTokenizerFast], object]] = {
    "Python": lambda path, _: path.write_bytes(bytes(2000)),
    "a copy": lambda path, _: shutil.copyfile(__file__, path),
    "numpy": lambda path, _: np.zeros(2000).tofile(path),
    "safetensors": lambda path, _: save_file({"a": torch.zeros(2000)}, path),
    "tokenizers": lambda path, tokenizer: tokenizer.backend_tokenizer.save(str(path)),
    "transformers": lambda path, tokenizer: tokenizer.save_pretrained(path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_meets_it_it_is_one_error_and_leaves_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, writer: str
) -> None:
    path = tmp_path / "out"
    with pytest.raises(DiskFullError) as error, full_disk(1000), new_folder(path) as folder:
        (folder / "whole").write_text("whole")
        WRITERS[writer](folder / "half", tokenizer)
        raise AssertionError("it was written")
    assert re.fullmatch(
        rf"{NEEDS} \({tmp_path}/\.out\.tmp\)\. {re.escape(WHAT_TO_DO)}", told(error.value)
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 2000),
        lambda path: write_json(path, {str(number): number for number in range(1000)}),
        lambda path: write_csv(path, ["step"], ([number] for number in range(1000))),
    ],
    ids=["text", "JSON", "a table"],
)
def test_a_file_says_what_it_needs_and_the_old_one_stays(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with (
        pytest.raises(DiskFullError, match=r"File too large: [\d,]{5,} bytes needed, "),
        full_disk(1000),
    ):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("num_bytes", [130, 200, 500, 1000, 3000])
def test_no_array_of_windows_is_short_without_an_error(tmp_path: Path, num_bytes: int) -> None:
    lengths = [7] * 40
    ids = np.arange(sum(lengths), dtype=np.int32)
    with pytest.raises(OSError) as error, full_disk(num_bytes), WindowWriter(tmp_path) as writer:
        for _ in range(3):
            writer.add(ids, ids % 2 == 0, lengths, [0.5] * len(ids))
    assert error.value.errno == errno.EFBIG


@pytest.mark.parametrize("num_bytes", [0, 100, 300, 1000, 3000, 10_000])
@pytest.mark.usefixtures("capsys")  # what is printed stands in memory
def test_prep_notices_it_in_each_of_its_files(tmp_path: Path, num_bytes: int) -> None:
    """Scratch files that came out short were an ``IndexError`` later."""
    (tmp_path / "x.jsonl").write_text(RECORDS)
    with (
        pytest.raises(DiskFullError, match=NEEDS),
        full_disk(num_bytes),
        new_folder(tmp_path / "out") as folder,
    ):
        prepare(tmp_path / "x.jsonl", data_params(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("name", ["rows", "runs", "speakers", "bands"])
def test_no_scratch_file_is_short_without_an_error(tmp_path: Path, name: str) -> None:
    sizes = {"rows": 0, "runs": 0, "speakers": 0} | {name: 100}
    piece = CleanPiece(
        lines=b"",
        rows=np.zeros(sizes["rows"], ROW),
        runs=np.zeros(sizes["runs"], np.uint64),
        speakers=np.zeros(sizes["speakers"], np.uint64),
        num_raw_turns=0,
        num_raw_characters=0,
        num_control=0,
        num_records=0,
        source=0,
        invalid=Counter(),
    )
    with pytest.raises(OSError) as error, full_disk(500), Catalogue(tmp_path / "x", 1) as catalogue:
        catalogue.add(piece)
        catalogue.write_bands([np.zeros((sizes.get("bands", 0), 1), np.uint64)])
        catalogue.finish()
        catalogue.band(0)
    assert error.value.errno == errno.EFBIG


@pytest.mark.parametrize("size", [0, 95, 99])
def test_a_vote_is_whole_or_not_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text("x" * (size - 1) + "\n" * (size > 0))
    with pytest.raises(DiskFullError, match=NEEDS), full_disk(100):
        append(path, "a vote" * 100)
    assert path.stat().st_size == size
    append(path, "a vote")
    assert path.read_text().endswith("\na vote\n" if size else "a vote\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device: '/tmp/x'", errno.ENOSPC),
        ("SafetensorError: I/O error: Disk quota exceeded (os error 122)", errno.EDQUOT),
        ("Read-only file system (os error 30)", errno.EROFS),
        ("3874 requested and 452 written", errno.ENOSPC),
        ("InductorError: OSError: [Errno 28] No space left on device", errno.ENOSPC),
        ("g++: fatal error: error writing to a.s: No space left on device", errno.ENOSPC),
        ("[Errno 111] Connection refused", None),
        ("step 28 of 122", None),
    ],
)
def test_failures_that_are_told_in_words_are_found_in_them(text: str, number: int | None) -> None:
    found = failure_in(text)
    assert (found and found.errno) == number


def test_another_failure_stays_what_it_is(tmp_path: Path) -> None:
    for error in (UserError("28"), ValueError("[Errno 5]"), ConnectionRefusedError(111, "refused")):
        with pytest.raises(type(error)) as raised, disk_errors(tmp_path):
            raise error
        assert raised.value is error


def test_a_failure_names_its_own_place_before_that_of_what_is_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "tmp" / "wheel"
    failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "source", None, str(elsewhere))
    with pytest.raises(DiskFullError) as error, disk_errors(tmp_path / "out", 5):
        raise failure
    assert error.value.filename == str(elsewhere)
    assert "more than 0 bytes needed" in str(error.value)


def test_without_a_place_the_folders_that_are_written_to_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "/")
    said = told(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    free = r"[\d,]+ bytes free in"
    start = rf"No space left on device: {free} {tmp_path}, {free} /\. "
    assert re.fullmatch(start + re.escape(WHAT_TO_DO), said)
