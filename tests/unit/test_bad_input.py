"""Whatever a user's file holds, prep says what and where, or reads it; it never fails otherwise.

Paths in the expected messages are relative to the test's folder.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from ruamel.yaml import YAML

from stages.prep import prepare
from tests.corpora import as_record, data_params, generated
from tuning.corpus import faults
from tuning.dialogue import Dialogue, read_dialogues
from tuning.reading import records as reading
from tuning.run.errors import UserError

ROOT = Path(__file__).parents[2]
GOOD = generated(12)
RECORDS = [as_record(dialogue) for dialogue in GOOD]
LIST = json.dumps(RECORDS).encode()
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
BY_ID = json.dumps({record["id"]: record for record in RECORDS}).encode()
OBJECTS = b"".join(json.dumps(record, indent=2).encode() + b"\n" for record in RECORDS)
INDENTED = json.dumps(RECORDS, indent=1).encode()
NEW_LINE = b"\n"
BOMB = b"[" * 100_000
KEY_BOMB = b'{"a":' * 100_000
MEND = "Mend them, or drop and count them with data.on_invalid: skip."
SAVE = "save the file as UTF-8"
QUOTE = "(found a single quote: Python's form; write it with json.dumps)"
UNPACK = "Unpack it into a folder, and name that in data.path"
AS_CSV = "Save a table as CSV, with column names in its first row"
NO_RECORDS = (
    "wanted JSON, JSONL, Parquet or Arrow, or a table named .csv or .tsv. Write each dialogue as a "
    'record, such as {"messages": [{"role": "user", "content": "…"}, …]}, one on a line.'
)


def prepared(path: Path, **changes: Any) -> tuple[dict[str, Any], list[Dialogue]]:
    """The ledger, whose sums are right, and the dialogues on some side by id."""
    folder = path.parent / "prepared"
    folder.mkdir()
    ledger = prepare(path, data_params(**changes), folder)
    kept = [d for name in ("train", "val") for d in read_dialogues(folder / f"{name}.jsonl")]
    for what in ("num_dialogues", "num_turns", "num_characters"):
        counts = dict(ledger[what])
        assert counts.pop("input") == sum(counts.values())
    assert ledger["num_dialogues"]["dropped_invalid"] == sum(ledger["num_invalid"].values())
    written = {file.name for file in folder.iterdir()}
    assert written - {"invalid.jsonl"} == {
        *("train.jsonl", "val.jsonl", "dropped.jsonl", "private.jsonl", "example.jsonl")
    }
    assert ("invalid.jsonl" in written) == (changes.get("on_invalid") == "skip")
    if "invalid.jsonl" in written:
        lines = (folder / "invalid.jsonl").read_bytes().splitlines()
        listed = [json.loads(line) for line in lines]
        assert Counter(line["reason"] for line in listed) == ledger["num_invalid"]
        assert all(line["where"] and line["fault"] and line["text"] for line in listed)
    shutil.rmtree(folder)
    return ledger, sorted(kept, key=lambda dialogue: dialogue.dialogue_id)


def message(path: Path, **changes: Any) -> str:
    """What prep says about an input that it refuses, having left nothing behind."""
    folder = path.parent / "prepared"
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        prepare(path, data_params(**changes), folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    return str(caught.value).replace(f"{path.parent}/", "")


def turns(*texts: Any, **fields: Any) -> bytes:
    """A line with a dialogue of ann and bob."""
    speakers = ("ann", "bob") * len(texts)
    items = [{"speaker": s, "text": t} for s, t in zip(speakers, texts, strict=False)]
    return json.dumps({"turns": items, **fields}).encode()


REFUSED = [
    pytest.param(
        "x.txt",
        b"[10:02] <ann> Hello\n[10:03] <bob> Hi\n",
        f"x.txt is a text file that begins with '[10:02] <ann> Hello'; {NO_RECORDS}",
        id="text log",
    ),
    pytest.param("x.json", b"", "x.json is empty.", id="empty file"),
    pytest.param("x.jsonl", b"", "x.jsonl is empty.", id="empty JSONL file"),
    pytest.param("x.json", b"\xef\xbb\xbf \n", "x.json is empty.", id="byte-order mark alone"),
    pytest.param("x.jsonl", b"\xef\xbb\xbf", "x.jsonl holds no dialogue.", id="JSONL mark alone"),
    pytest.param("x.jsonl", b"\n \r\n\n", "x.jsonl holds no dialogue.", id="blank lines alone"),
    pytest.param("x.json", b"[]", "x.json holds no dialogue.", id="empty list"),
    pytest.param("x.json", b"{ }", "x.json holds no dialogue.", id="empty object"),
    pytest.param("x.json.gz", gzip.compress(b""), "x.json.gz is empty.", id="empty inside gzip"),
    pytest.param("x.jsonl.gz", b"", "x.jsonl.gz is empty.", id="empty gzip"),
    *(
        pytest.param(
            "x.json",
            text.encode(),
            f"x.json: wanted a list or an object of dialogues, found {text[:40]}.",
            id=f"top level {name}",
        )
        for name, text in {
            "text": '"hello"',
            "number": "42",
            "null": "null",
            "true": "true",
            "NaN": "NaN",
            "number of 5000 digits": "7" * 5000,
        }.items()
    ),
    pytest.param("x.json", BOMB, "x.json: not JSON: nested too deeply at line 1, column 2.",
                 id="list bomb"),
    pytest.param("x.json", KEY_BOMB, "x.json: not JSON: nested too deeply at line 1, column 6.",
                 id="object bomb"),
    pytest.param("x.json", b'["caf\xe9"]', f"x.json: byte 5 is not UTF-8 (invalid continuation "
                 f"byte); {SAVE}.", id="not UTF-8"),
    pytest.param("x.json", b'["\xed\xa0\x80"]', "x.json: byte 2 is not UTF-8 (invalid continuation "
                 f"byte); {SAVE}.", id="surrogate in UTF-8"),
    pytest.param("x.json", b'["\xe2\x98', "x.json: byte 2 is not UTF-8 (unexpected end of data); "
                 f"{SAVE}.", id="ends within a character"),
    pytest.param("x.json", b'[{"turns": [', "x.json: not JSON: Expecting value at line 1, column "
                 "13, where the file ends.", id="ends within a list"),
    pytest.param("x.json", b'[\n{"turns": "he', "x.json: not JSON: Unterminated string starting at "
                 "line 2, column 11.", id="ends within text"),
    pytest.param("x.json", b"[{'turns': []}]", "x.json: not JSON: Expecting property name enclosed "
                 f"in double quotes {QUOTE} at line 1, column 3.", id="single quotes"),
    pytest.param("x.json", b"{'turns': []}", "x.json: not JSON: wanted a key in double quotes "
                 f"{QUOTE} at line 1, column 2.", id="single quotes in the only record"),
    pytest.param("x.json", b"// mine\n" + LIST, "x.json: not JSON: it begins with a comment "
                 "('// mine'), which JSON does not have. Take the comments out.", id="comment"),
    pytest.param("x.json", b'["a\tb"]', "x.json: not JSON: Invalid control character at line 1, "
                 "column 4.", id="tab in text"),
    pytest.param("x.json", b"\0" * 100, "x.json is a binary file of an unknown kind, or damaged: "
                 f"it begins with {chr(0) * 40!r}. Wanted JSON, JSONL, CSV, TSV, Parquet or Arrow.",
                 id="NUL bytes"),
    pytest.param("x.txt", b"A: Hello.\nB: Hi.\n", "x.txt is a text file that begins with 'A: "
                 f"Hello.'; {NO_RECORDS}", id="text"),
    pytest.param("x.jsonl", b"A: Hello.\nB: Hi.\n", "x.jsonl is a text file that begins with 'A: "
                 f"Hello.'; {NO_RECORDS}", id="text named JSONL"),
    *(
        pytest.param(
            f"x.json.{suffix}",
            content,
            f"x.json.{suffix} is compressed with {name}. Decompress it first; gzip and zstd are "
            "read as they are.",
            id=name,
        )
        for suffix, name, content in (
            ("bz2", "bzip2", bz2.compress(LIST)),
            ("xz", "xz", lzma.compress(LIST)),
            ("gz", "lz4", b"\x04\x22\x4d\x18" + LIST),
        )
    ),
    *(
        pytest.param("x.dat", content, f"x.dat is {what}. {remedy}.", id=what)
        for content, what, remedy in (
            (b"PK\x03\x04" + LIST, "a zip archive", UNPACK),
            (b"PK\x03\x04" + b" " * 26 + b"xl/workbook.xml", "an office document", AS_CSV),
            (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
            (b"x.json".ljust(257, b"\0") + b"ustar\x0000", "a tar archive", UNPACK),
            (b"%PDF-1.7\n", "a PDF document", "Bring its text as JSON or CSV"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
             "a pointer of git LFS to a file that is not here", "Get it with git lfs pull"),
        )
    ),
    pytest.param("x.tar.gz", gzip.compress(b"x.json".ljust(257, b"\0") + b"ustar\x0000"),
                 f"x.tar.gz is a tar archive inside gzip. {UNPACK}.", id="tar inside gzip"),
    pytest.param("x.jsonl.gz", gzip.compress(LINES)[:9], "x.jsonl.gz is damaged or ends too "
                 "early: Compressed file ended before the end-of-stream marker was reached.",
                 id="gzip of nine bytes"),
    pytest.param("x.jsonl.zst", zstandard.compress(LINES)[:-3], "x.jsonl.zst is damaged or ends "
                 "too early: its last zstd frame is not whole.", id="truncated zstd"),
]  # fmt: skip


@pytest.mark.parametrize("on_invalid", ["error", "skip"])
@pytest.mark.parametrize(("name", "content", "wanted"), REFUSED)
def test_a_file_that_hides_its_records_is_refused(
    tmp_path: Path, name: str, content: bytes, wanted: str, on_invalid: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message(path, on_invalid=on_invalid) == wanted


UNREADABLE = {
    "a bomb": ("x.jsonl", BOMB, 1, "not usable JSON: nested too deeply"),
    "texts without a dialogue": (
        "x.json",
        b'["Hello", "Hi"]',
        2,
        "its layout is not known: found str 'Hello'; wanted a list of messages",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_without_a_record_that_can_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    name, content, num_records, fault = UNREADABLE[kind]
    path = tmp_path / name
    path.write_bytes(content)
    of_all = f"{name}: {num_records} of {num_records} records are not dialogues:\n"
    found = message(path).replace("x.json, record 1:", "x.jsonl:1:")
    assert found.startswith(f"{of_all}  x.jsonl:1: {fault}")
    skipped = message(path, on_invalid="skip")
    assert skipped.startswith(f"{name}: 0 training and 0 validation dialogues are left")
    assert f"Of the input: dropped_invalid {num_records}, input {num_records}." in skipped


def test_a_file_of_empty_dialogues_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"turns": []}, {"messages": []}]')
    found = message(path)
    assert found.startswith("x.json: 0 training and 0 validation dialogues are left")
    assert "Of the input: dropped_few_speakers 2, input 2." in found


KEPT = LIST[:-1]  # of a list: twelve records, and what is wrong behind them
BROKEN = [
    pytest.param("x.json", KEPT, "not JSON: wanted ',' or ']' at line 1, column "
                 f"{len(KEPT) + 1}, where the file ends", b"", id="ends between records"),
    pytest.param("x.json", KEPT + b",", "not JSON: Expecting value at line 1, column "
                 f"{len(KEPT) + 2}, where the file ends", b"", id="ends after a comma"),
    pytest.param("x.json", KEPT + b',\n{"turns": "he', "not JSON: Unterminated string starting at "
                 "line 2, column 11", b'{"turns": "he', id="ends within text"),
    pytest.param("x.json", KEPT + b"\n" + LIST[1:], "not JSON: wanted ',' or ']' at line 2, "
                 "column 1", LIST[1:], id="a comma is missing"),
    pytest.param("x.json", KEPT + b",\n]", "not JSON: found a comma after the last item at line 2, "
                 "column 1", b"]", id="trailing comma in a list"),
    pytest.param("x.json", KEPT + b",\n// more\n[]]", "not JSON: Expecting value (found a comment, "
                 "which JSON does not have) at line 2, column 1", b"// more\n[]]",
                 id="comment between records"),
    pytest.param("x.json", KEPT + b",\n" + BOMB, "not JSON: nested too deeply at line 2, column 1",
                 BOMB, id="bomb after good records"),
    pytest.param("x.json", KEPT + b',\n["caf\xe9"]]', f"byte {len(KEPT) + 7} is not UTF-8 (invalid "
                 f"continuation byte); {SAVE}", b'["caf\xe9"]]', id="not UTF-8"),
    pytest.param("x.json", LIST + b"\nbye", "not JSON: wanted the end of the file at line 2, "
                 "column 1", b"bye", id="text after the end"),
    pytest.param("x.json", LIST + b"\n" + LIST, "not JSON: wanted the end of the file at line 2, "
                 "column 1", LIST, id="two documents"),
    pytest.param("x.json", BY_ID[:-1] + b",\n}", "not JSON: found a comma after the last item at "
                 "line 2, column 1", b"}", id="trailing comma in an object"),
    pytest.param("x.json", BY_ID[:-1] + b',\n"a', "not JSON: Unterminated string starting at line "
                 "2, column 1", b'"a', id="object ends within a key"),
    pytest.param("x.json", OBJECTS + b"bye", "not JSON: wanted the end of the file at line "
                 f"{OBJECTS.count(NEW_LINE) + 1}, column 1", b"bye", id="text after objects"),
    pytest.param("x.json", LIST[:-1].decode().encode("utf-16"), "not JSON: wanted ',' or ']' at "
                 f"line 1, column {len(KEPT) + 1}, where the file ends", b"", id="UTF-16"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "why", "rest"), BROKEN)
@pytest.mark.parametrize("piece_bytes", [100, 2**20])
def test_what_stands_before_a_break_is_kept_if_faults_are_skipped(
    tmp_path: Path,
    name: str,
    content: bytes,
    why: str,
    rest: bytes,
    piece_bytes: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", piece_bytes)
    path = tmp_path / name
    path.write_bytes(content)
    hint = "data.on_invalid: skip keeps the 12 records before it."
    assert message(path) == f"{name}: {why}. {hint}"

    capsys.readouterr()
    ledger, kept = prepared(path, on_invalid="skip")
    assert kept == by_id(*GOOD)
    assert ledger["unreadable_bytes"] == len(rest)
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    is_utf16 = content.startswith(codecs.BOM_UTF16_LE)
    byte = len(content.decode("utf-16-le").encode() if is_utf16 else content) - len(rest)
    assert (
        f"prep: {name}: broken at byte {byte:,} ({why}): the records before it are kept, "
        f"{len(rest):,} bytes are not read\n"
    ) in said


LONG_LINES = b"".join(
    json.dumps(as_record(dialogue)).encode() + b"\n" for dialogue in generated(400)
)


def cut(content: bytes) -> bytes:
    """Without its last quarter."""
    return content[: len(content) * 3 // 4]


def in_blocks(content: bytes) -> bytes:
    """One frame of zstd, of which every kilobyte can be read by itself."""
    frame = zstandard.ZstdCompressor().compressobj()
    parts = [
        frame.compress(content[start : start + 1000])
        + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for start in range(0, len(content), 1000)
    ]
    return b"".join([*parts, frame.flush()])


DAMAGED = [
    pytest.param("x.jsonl.gz", cut(gzip.compress(LONG_LINES)), id="truncated gzip"),
    pytest.param("x.json.gz", cut(gzip.compress(b"[" + LONG_LINES.replace(b"\n", b","))),
                 id="truncated gzip of a list"),
    pytest.param("x.jsonl.gz", gzip.compress(LONG_LINES)[:-8] + bytes(8), id="damaged gzip"),
    pytest.param("x.jsonl.gz", gzip.compress(LONG_LINES) + b"bye", id="text after gzip"),
    pytest.param("x.jsonl.zst", cut(in_blocks(LONG_LINES)), id="truncated zstd"),
    pytest.param("x.jsonl.zst", zstandard.compress(LONG_LINES) + b"bye!", id="text after zstd"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_what_stands_before_damage_is_kept_if_faults_are_skipped(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = message(path)
    assert re.match(
        rf"{name} is damaged or ends too early: .*\. data\.on_invalid: skip keeps the [\d,]+ "
        r"records before it\.",
        found,
    ), found
    capsys.readouterr()
    ledger, kept = prepared(path, on_invalid="skip")
    assert len(kept) >= 100
    assert by_id(*kept) == [d for d in by_id(*generated(400)) if d in kept]
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    lost = re.search(r"broken at byte [\d,]+ \(is damaged .*\): .* kept, ([\d,]+) bytes are", said)
    assert lost
    assert int(lost[1].replace(",", "")) == ledger["unreadable_bytes"]


FAULTY = [
    pytest.param(turns("hello")[:40], "not_json", "not JSON: Unterminated string starting at "
                 "column 39",
                 id="truncated line"),
    pytest.param(b'{"turns": []} bye', "not_json", "not JSON: Extra data at column 15",
                 id="text after a record"),
    pytest.param(b'{"turns": [],}', "not_json", "not JSON: Illegal trailing comma before end of "
                 "object at column 13" if sys.version_info >= (3, 13) else
                 "not JSON: Expecting property name enclosed in double quotes (found a comma after "
                 "the last item) at column 14",
                 id="trailing comma in a line"),
    pytest.param(b"# mine", "not_json", "not JSON: Expecting value (found a comment, which JSON "
                 "does not have) at column 1", id="comment in a line"),
    pytest.param(b"\xef\xbb\xbf" + turns("a", "b"), "not_json", "not JSON: Unexpected UTF-8 BOM "
                 "(decode using utf-8-sig) at column 1", id="mark within the file"),
    pytest.param(b"\0\0\0\0", "not_json", "not JSON: Expecting value at column 1",
                 id="line of NUL bytes"),
    pytest.param(BOMB, "not_json", "not usable JSON: nested too deeply", id="list bomb in a line"),
    pytest.param(KEY_BOMB, "not_json", "not usable JSON: nested too deeply",
                 id="object bomb in a line"),
    pytest.param(b'{"turns": [], "id": ' + b"7" * 5000 + b"}", "not_json", "not usable JSON: "
                 "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
                 "digits",
                 id="id of 5000 digits"),
    pytest.param(turns("caf☺", "b").replace(b"\\u263a", b"\xe9"), "not_utf8", "byte 42 of the line "
                 f"is not UTF-8 (invalid continuation byte); {SAVE}", id="line is not UTF-8"),
    pytest.param(b'{"turns": [], "turns": []}', "repeated_key", "the key 'turns' stands twice in "
                 "one object", id="repeated key"),
    pytest.param(b'{"turns": [{"speaker": "a", "text": "x", "text": "y"}]}', "repeated_key",
                 "the key 'text' stands twice in one object", id="repeated key within"),
    *(
        pytest.param(line, "unknown_layout", f"its layout is not known: found {found}; wanted a "
                     "list of messages (each with a text and who says it), a prompt and its "
                     "response, or "
                     f"a list of texts. Or say where they are: data.columns: {{list: {start}, who: "
                     "…, text: …}", id=name)
        for name, line, found, start in (
            ("null for a record", b"null", "nothing", "…"),
            ("text for a record", b'"Hello"', "str 'Hello'", "…"),
            ("empty record", b"{}", "nothing", "…"),
            ("other keys", b'{"story": 1, "parts": [2]}', "'story', 'parts'", "parts"),
            ("null for turns", b'{"turns": null}', "'turns'", "…"),
            ("turns in an object", b'{"turns": {"1": "x"}}', "'turns'", "…"),
            ("missing text", b'{"turns": [{"speaker": "a"}]}', "'turns'", "turns"),
            ("deep but whole", b'{"lists": ' + b"[" * 500 + b"]" * 500 + b"}", "'lists'", "lists"),
        )
    ),
    pytest.param(b'{"turns": [["ann", "x"]]}', "wrong_layout", "turn 1: found list \"['ann', 'x']"
                 "\"; wanted a speaker and a text, of which nothing tells that the first is a "
                 "speaker: none is a role, or stands there twice", id="turn is a list"),
    pytest.param(b'{"turns": [{"speaker": "a", "text": "x"}, {"text": "y"}]}', "missing_speaker",
                 "turn 2: wanted 'speaker' as in others, found 'text'", id="missing speaker"),
    pytest.param(b'{"turns": [{"speaker": null, "text": "x"}]}', "missing_speaker", "turn 1: "
                 "'speaker': wanted a name, found nothing", id="null speaker"),
    pytest.param(b'{"turns": [{"speaker": "", "text": "x"}]}', "missing_speaker", "turn 1: "
                 "'speaker': wanted a name, found str ''", id="empty speaker"),
    pytest.param(b'{"turns": [{"speaker": true, "text": "x"}]}', "not_text", "turn 1: 'speaker': "
                 "wanted text, found bool 'True'", id="true as speaker"),
    pytest.param(turns("a", None), "no_text", "turn 2: 'text': wanted text, found nothing",
                 id="null text"),
    pytest.param(turns("a", 7), "not_text", "turn 2: 'text': wanted text, found int '7'",
                 id="number as text"),
    pytest.param(turns("a", float("nan")), "not_text", "turn 2: 'text': wanted text, found float "
                 "'nan'", id="NaN as text"),
    pytest.param(turns("a", {"b": 1}), "not_text", "turn 2: 'text': wanted text, found dict "
                 "\"{'b': 1}\"", id="object as text"),
    pytest.param(b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "preference", "found 'chosen' "
                 "and 'rejected': a preference, which is not trained as if it were plain. To train "
                 "on the preferred answers, say where they are: data.columns: {list: \"[{role: "
                 "'user', content: prompt}, {role: 'assistant', content: chosen}]\"}",
                 id="preference"),
    pytest.param(b'{"turns": [{"speaker": "a", "text": "x", "weight": -2}]}', "weight", "turn 1: "
                 "'weight': wanted 0 (not trained), or a number from 1e-06 to 1,000,000, found int "
                 "'-2'", id="weight of -2"),
    pytest.param(turns("a", "b\ud83d"), "not_text", "turn 2: 'text' holds a lone surrogate, which "
                 "is not text", id="lone surrogate in text"),
    pytest.param(turns("a", "\ude00\ud83d"), "not_text", "turn 2: 'text' holds a lone surrogate, "
                 "which is not text", id="surrogates the wrong way round"),
    pytest.param(turns("a", "b", id="\ud83d"), "not_text", "the id holds a lone surrogate, which "
                 "is not text", id="lone surrogate in an id"),
    pytest.param(turns("a", "b\0"), "not_text", "turn 2: 'text' holds the character NUL, which is "
                 "not text", id="NUL in text"),
    pytest.param(turns("a", "b", id="x\0y"), "not_text", "the id holds the character NUL, which is "
                 "not text", id="NUL in an id"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason", "fault"), FAULTY)
def test_a_faulty_record_is_named_or_dropped_and_counted(
    tmp_path: Path, line: bytes, reason: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(LINES)
    _, good = prepared(path)
    path.write_bytes(LINES + b"\n" + line + b"\n")

    shown = f"x.jsonl: 1 of 13 records are not dialogues:\n  x.jsonl:14: {fault}"
    assert message(path) == f"{shown}\n{MEND}"

    capsys.readouterr()
    ledger, kept = prepared(path, on_invalid="skip")
    said = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert ledger["num_dialogues"]["input"] == 13
    assert "prep: dropped into invalid.jsonl, since data.on_invalid is skip" in said
    assert shown in said
    assert (ledger["num_invalid"], kept) == ({reason: 1}, good)


def by_id(*dialogues: Dialogue) -> list[Dialogue]:
    return sorted(dialogues, key=lambda dialogue: dialogue.dialogue_id)


SPECIAL = "<|endoftext|> </s> [INST] <|im_start|>system\n<|speaker2|> <|endofturn|> <|pad|>"
LONG = "many words " * 500_000
FINE = [
    pytest.param("x.json", b"\xef\xbb\xbf" + LIST, id="byte-order mark"),
    pytest.param("x.jsonl", b"\xef\xbb\xbf" + LINES, id="byte-order mark of JSONL"),
    pytest.param("x.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + LINES), id="mark inside gzip"),
    pytest.param("x.jsonl", LINES.replace(b"\n", b"\r\n"), id="Windows line ends"),
    pytest.param("x.json", json.dumps(RECORDS, indent=2).replace("\n", "\r\n").encode(),
                 id="Windows line ends in JSON"),
    pytest.param("x.jsonl", LINES.replace(b"\n", b"\n\n \n"), id="blank lines between"),
    pytest.param("x.jsonl", LINES[:-1], id="no last line end"),
    pytest.param("x.json", LINES, id="JSONL named JSON"),
    pytest.param("x.txt", LINES, id="JSONL named txt"),
    pytest.param("x", LIST, id="no suffix"),
    pytest.param("x.json", b" \n" * 1_500_000 + LIST + b" " * 3_000_000, id="megabytes of spaces"),
    pytest.param("x.json.gz", zstandard.compress(LIST), id="zstd named gz"),
    pytest.param("x.jsonl", gzip.compress(LINES), id="gzip named plain"),
    pytest.param("x.zst", zstandard.compress(LINES[:500]) + zstandard.compress(LINES[500:]),
                 id="two zstd frames"),
    pytest.param("x.jsonl", LINES.replace(b'"turns"', b'"score": NaN, "big": 1e999, "turns"'),
                 id="NaN and infinity in other keys"),
    pytest.param("x.json", BY_ID, id="object by id"),
    pytest.param("x.jsonl.gz", LINES, id="plain named gz"),
    pytest.param("x.jsonl", INDENTED, id="indented JSON named JSONL"),
    pytest.param("x.jsonl", LIST, id="JSON on one line named JSONL"),
    pytest.param("x.jsonl", LINES.replace(b"\n", b"\r"), id="old Mac line ends"),
    pytest.param("x.jsonl", LINES.replace(b"\n", b""), id="objects glued together"),
    pytest.param("x.jsonl", OBJECTS, id="indented objects named JSONL"),
    pytest.param("x.json", OBJECTS, id="indented objects"),
    *(
        pytest.param(name, content.decode().encode(encoding), id=f"{name} in {encoding}")
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
        for name, content in (("x.json", LIST), ("x.jsonl", LINES))
    ),
    pytest.param("x.json", b'{"version": "1.0", "data": ' + LIST + b', "n": 12}', id="wrapped"),
    pytest.param("x.json", b'{"about": {"x": [1]}, "chats": {"list": ' + LIST + b', "y": {}}}',
                 id="wrapped twice"),
    pytest.param("x.json", b'{"dialogues": ' + BY_ID + b', "n": 12}', id="wrapped by id"),
    pytest.param("x.json", json.dumps({"train": RECORDS[:7], "test": RECORDS[7:]}).encode(),
                 id="splits"),
    pytest.param("x.json", json.dumps({"conversations": RECORDS}).encode(),
                 id="wrapped under a dialogue's key"),
    pytest.param("x.jsonl", LINES * 3, id="the same records three times"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), FINE)
def test_what_is_unusual_but_clear_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    ledger, kept = prepared(path)
    assert kept == by_id(*GOOD)
    assert ledger["num_dialogues"]["dropped_duplicate"] == ledger["num_dialogues"]["input"] - 12
    assert ledger["num_invalid"] == {}


UNUSUAL_TEXT = [
    pytest.param(SPECIAL, SPECIAL, id="special tokens' spellings"),
    pytest.param(LONG, LONG.strip(), id="five megabytes in one turn"),
    pytest.param("x\u2028y\u2029z\x85\x0b\x0c\x1cw", "x\u2028y\u2029z\x85w",
                 id="line ends of Unicode"),
    pytest.param("\ud83d\ude00 ☺", "😀 ☺", id="surrogates that are a pair"),
    pytest.param('"\\/\b\f\n\r\t\x7f\x01x', '"\\/\n\r\tx', id="escapes and control characters"),
    pytest.param("a\ufeffb", "a\ufeffb", id="byte-order mark within text"),
    pytest.param("\u202eevil\u202c\u200b", "\u202eevil\u202c\u200b", id="invisible characters"),
    pytest.param("e\u0301" * 5, "e\u0301" * 5, id="combining characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kept_text"), UNUSUAL_TEXT)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_unusual_text_is_kept_to_the_letter_but_for_control_characters(
    tmp_path: Path, name: str, text: str, kept_text: str
) -> None:
    path = tmp_path / name
    line = turns(text, "Yes.", id="unusual")
    path.write_bytes(LINES + line if name == "x.jsonl" else LIST[:-1] + b"," + line + b"]")
    ledger, kept = prepared(path)
    assert [d.turns[0].utterance for d in kept if d.dialogue_id == "unusual"] == [kept_text]
    num_control = sum(text.count(character) for character in "\b\v\f\x01\x1c\x7f")
    assert ledger["num_characters"]["dropped_control"] == num_control
    assert len(kept) == 13


def test_empty_turns_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [turns("So?", "", " \n", "Yes.", id="some"), turns("", " ", id="all")]
    path.write_bytes(LINES + b"\n".join(lines))
    ledger, kept = prepared(path)
    assert [len(d.turns) for d in kept if d.dialogue_id == "some"] == [2]
    assert "all" not in {d.dialogue_id for d in kept}
    assert ledger["num_turns"]["dropped_empty"] == 4
    assert ledger["num_dialogues"]["dropped_few_speakers"] == 1
    assert ledger["num_characters"]["dropped_white_space"] == 3


def test_an_id_twice_in_one_object_is_one_dialogue_or_two(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = [json.dumps(record["turns"]) for record in RECORDS]
    members = [f'"id {n}": {{"turns": {text}}}' for n, text in enumerate(good)]
    path.write_text(f"{{{', '.join([*members, members[0]])}}}")
    ledger, kept = prepared(path)
    assert (ledger["num_dialogues"]["dropped_duplicate"], len(kept)) == (1, 12)

    other = '"id 1": {"turns": ["Some other words", "And an answer"]}'
    path.write_text(f"{{{', '.join([*members, other])}}}")
    ledger, kept = prepared(path)
    assert (ledger["num_renamed"], len(kept)) == (1, 13)
    assert {d.dialogue_id for d in kept} == {*(f"id {n}" for n in range(12)), "id 1~2"}


def test_ids_that_two_files_share_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINES)
    (folder / "b.jsonl").write_bytes(LINES)
    ledger, kept = prepared(folder)
    assert (ledger["num_dialogues"]["dropped_duplicate"], kept) == (12, by_id(*GOOD))
    others = b"".join(
        json.dumps(as_record(Dialogue(mine.dialogue_id, other.turns))).encode() + b"\n"
        for mine, other in zip(GOOD, generated(12, seed=8), strict=True)
    )
    (folder / "b.jsonl").write_bytes(others)
    ledger, kept = prepared(folder)
    assert ledger["num_renamed"] == 12
    ids = {dialogue.dialogue_id for dialogue in GOOD}
    assert {d.dialogue_id for d in kept} == ids | {f"{name}~2" for name in ids}


@pytest.mark.parametrize(("num_faults", "rest"), [(20, []), (21, [1]), (1500, [1480])])
@pytest.mark.parametrize("kind", ["one piece", "many pieces", "many files"])
def test_faults_beyond_twenty_are_counted_wherever_they_are(
    tmp_path: Path,
    kind: str,
    num_faults: int,
    rest: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNING_WORKERS", "1")
    if kind == "many pieces":
        monkeypatch.setattr(reading, "PIECE_BYTES", 2**10)
    path = tmp_path / "x.jsonl"
    faulty = turns("a", None)
    path.write_bytes(LINES + (faulty + b"\n") * num_faults)
    places = [f"x.jsonl:{12 + n}" for n in range(1, 21)]
    if kind == "many files":
        path = tmp_path / "mine"
        path.mkdir()
        (path / "a.jsonl").write_bytes(LINES + (faulty + b"\n") * 5)
        (path / "b.json").write_bytes(b"[" + b",".join([faulty] * (num_faults - 5)) + b"]")
        places = [f"mine/a.jsonl:{12 + n}" for n in range(1, 6)]
        places += [f"mine/b.json, record {n}" for n in range(1, 16)]
    fault = "turn 2: 'text': wanted text, found nothing"
    assert message(path).splitlines() == [
        f"{path.name}: {num_faults:,} of {num_faults + 12:,} records are not dialogues:",
        *(f"  {place}: {fault}" for place in places),
        *(f"  … and {number:,} more" for number in rest),
        MEND,
    ]
    ledger, kept = prepared(path, on_invalid="skip")
    assert ledger["num_invalid"] == {"no_text": num_faults}
    assert kept == by_id(*GOOD)


def test_every_reason_is_counted_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    faulty = [(str(case.values[1]), case.values[0]) for case in FAULTY]
    lines = [line for _, line in faulty if isinstance(line, bytes)]
    path.write_bytes(LINES + b"\n".join([*lines, turns("a", "b")]))
    ledger, _ = prepared(path, on_invalid="skip", group_by="id")
    wanted = Counter(reason for reason, _ in faulty)
    assert ledger["num_invalid"] == {**wanted, "missing_group": 1}


SPECIAL_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "x not found; data.path names a file of dialogues "),
    "link to nothing": (
        lambda path: path.symlink_to("y"),
        "x is a symbolic link that leads nowhere",
    ),
    "link to itself": (
        lambda path: path.symlink_to("x"),
        "x is a symbolic link that leads nowhere",
    ),
    "pipe": (os.mkfifo, "x is neither a file nor a folder; data.path names one of them."),
    "socket": (
        lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
        "x is neither a file nor a folder; data.path names one of them.",
    ),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "x is neither a file nor a "),
    "empty folder": (Path.mkdir, "x is a folder with no data file in it; "),
}


@pytest.mark.parametrize("name", SPECIAL_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    make, wanted = SPECIAL_FILES[name]
    make(tmp_path / "x")
    assert message(tmp_path / "x").startswith(wanted)


NOT_DATA = (
    "not a file to read; wanted files (no pipe, no link to a folder) with a UTF-8 name. Move it "
    "elsewhere."
)
STRAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe within": (lambda folder: os.mkfifo(folder / "b.json"), "mine/b.json: "),
    "hidden pipe": (lambda folder: os.mkfifo(folder / ".b"), "mine/.b: "),
    "link loop": (lambda folder: (folder / "b.json").symlink_to("b.json"), "mine/b.json: "),
    "link to the folder": (lambda folder: (folder / "b.json").symlink_to("."), "mine/b.json: "),
    "name that is not UTF-8": (
        lambda folder: (folder / os.fsdecode(b"caf\xe9.json")).touch(),
        "mine/caf?.json: ",
    ),
    "many": (
        lambda folder: list(map(os.mkfifo, (folder / f"{n}.txt" for n in range(9)))),
        "mine/0.txt, mine/1.txt, mine/2.txt and 6 more: ",
    ),
}


@pytest.mark.parametrize("name", STRAY)
def test_what_cannot_be_read_in_a_folder_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINES)
    make, found = STRAY[name]
    make(folder)
    assert message(folder) == f"mine: {found}{NOT_DATA}"


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".cache" / "x.json").write_bytes(LIST)
    assert message(folder).startswith("mine is a folder with no data file in it; wanted .json, ")
    (folder / "a.jsonl").write_bytes(LINES)
    assert prepared(folder)[1] == by_id(*GOOD)


def test_only_data_is_read_and_the_rest_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    for name in ("README.md", "a.jsonl.dvc", "dataset_infos.json", "b.json.bz2", ".gitignore"):
        (folder / name).write_text("{}")
    (folder / "data" / "load.py").touch()
    there = "README.md, a.jsonl.dvc, b.json.bz2 and 2 more"
    assert f"no data file in it: {there}; wanted .json" in message(folder)
    (folder / "a.jsonl").write_bytes(LINES)
    assert prepared(folder)[1] == by_id(*GOOD)
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    names = "README.md, a.jsonl.dvc, b.json.bz2, data/load.py, dataset_infos.json"
    assert said.count(f"prep: passed over in mine: {names}\n") == 1


def test_what_stands_beside_the_records_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"version": 1, "info": {"by": ["x"]}, "data": ' + LIST + b', "tags": []}')
    assert prepared(path)[1] == by_id(*GOOD)
    assert "x.json: beside the records, not used: version, info, tags\n" in capsys.readouterr().out


UNUSABLE = {
    "empty": (b"", "is empty."),
    "nothing in it": (b"[]", "holds no dialogue."),
    "blank lines": (b"\n \n", "is empty."),
    "a document": (b"%PDF-1.7 and so on", "is a PDF document. Bring its text as JSON or CSV."),
    "not JSON from the start": (b'[{"turns": [oh', "not JSON: Expecting value at line 1"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_of_a_folder_that_holds_no_records_is_an_error_or_passed_over_by_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, why = UNUSABLE[name]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.json").write_bytes(content)
    (folder / "b.jsonl").write_bytes(LINES)
    said = message(folder)
    assert said.startswith("mine/a.json")
    assert why in said
    assert said.endswith("data.on_invalid: skip passes over such a file of a folder, by its name.")
    ledger, kept = prepared(folder, on_invalid="skip")
    assert len(kept) == len(GOOD)
    assert ledger["unreadable_bytes"] == len(content)
    shown = capsys.readouterr().out
    assert f"passed over, since data.on_invalid is skip: {folder}/a.json" in shown
    assert why in shown


def test_a_folder_of_which_every_file_is_passed_over_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.json").touch()
    (folder / "b.json").write_bytes(b"[]")
    assert message(folder, on_invalid="skip").startswith("mine holds no dialogue: all of its files")


def test_an_invalid_record_is_listed_by_its_beginning_and_without_private_data(
    tmp_path: Path,
) -> None:
    path, folder = tmp_path / "x.jsonl", tmp_path / "prepared"
    broken = '{"turns": "ask jo@example.com, caf\xe9 ' + "x" * 3000
    path.write_bytes(LINES + b"\n" + broken.encode("latin-1") + b"\n[7]")
    for redact, shown in (("report", "jo@example.com"), ("replace", "<EMAIL_1>")):
        folder.mkdir()
        prepare(path, data_params(on_invalid="skip", redact=redact), folder)
        first, second = map(json.loads, (folder / "invalid.jsonl").read_bytes().splitlines())
        shutil.rmtree(folder)
        assert first["where"] == f"{path}:14"
        assert first["reason"] == "not_utf8"
        assert first["text"].startswith(f'{{"turns": "ask {shown}, caf\N{REPLACEMENT CHARACTER} xx')
        assert 1900 < len(first["text"]) <= 2000
        assert (second["reason"], second["text"]) == ("unknown_layout", "[7]")


PACKED: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "a list": ("x.json", b'[{"a": [', b"{},", b"{}]}]"),
    "objects in an object": ("x.json", b'[{"a": {', b'"b":{},', b'"b":{}}}]'),
    "empty lists": ("x.json", b'[{"a": [', b"[],", b"[]]}]"),
    "numbers": ("x.json", b'[{"messages": [', b"1,", b"1]}]"),
    "messages": ("x.json", b'[{"messages": [', b'{"role":"user"},', b"{}]}]"),
    "a line": ("x.jsonl", b'{"a": [', b"{},", b"{}]}\n"),
    "text that is JSON": ("x.jsonl", b'{"messages": "[', b"{},", b'{}]"}\n'),
    "cells": ("x.csv", b"a,b\n", b",", b"\n"),
    "cells of a TSV file": ("x.tsv", b"a\tb\n", b"\t", b"\n"),
    "lines of a cell": ("x.csv", b'a,b\n"', b"\n", b'",x\n'),
    "a chat's messages": ("x.txt", b"", b"1/2/24, 10:00 - A: x\n", b""),
}
"""Records of many short values: a file's name, its beginning, what is repeated, and its end."""


@pytest.mark.parametrize("name", PACKED)
def test_a_record_of_many_short_values_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Some kilobytes of gzip, in which there are 1,500,000 values where 2**16 are allowed.

    A file's first megabyte is looked into whatever it holds.
    """
    monkeypatch.setattr(reading, "MAX_PARTS", 2**16)
    monkeypatch.setattr(faults, "MAX_PARTS", 2**16)
    file, start, repeated, end = PACKED[name]
    path = tmp_path / f"{file}.gz"
    path.write_bytes(gzip.compress(start + repeated * 1_500_000 + end))
    assert path.stat().st_size < 120_000
    tracemalloc.start()
    try:
        said = message(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more than 65,536 values" in said
    assert peak < 90_000_000


class Stage:
    """``python -m stages.prep`` in a folder of its own, on a relative path ``x…``."""

    def __init__(
        self, folder: Path, data: str, on_invalid: str = "error", **environment: str
    ) -> None:
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["data"] |= {"path": data, "on_invalid": on_invalid, "max_dialogues": None}
        yaml.dump(params, folder / "params.yaml")
        shutil.copy(ROOT / "requirements.lock", folder)
        self.outputs = folder / "out"
        command = [sys.executable, "-u", "-m", "stages.prep", "--lock", "requirements.lock"]
        self.process = subprocess.Popen(
            [
                *(*command, "--hub", "hub", "--prepared", "out/prepared"),
                *("--metrics", "out/prep.json", "--timing", "out/timing.json"),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TUNING_WORKERS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )

    def succeeds(self) -> str:
        """What it says as it exits with 0."""
        said = self.process.communicate(timeout=60)[0].decode()
        assert self.process.returncode == 0, said
        return said

    def fails(self) -> str:
        """What it says as it exits with 1, leaving nothing behind."""
        said = self.process.communicate(timeout=60)[0].decode()
        assert self.process.returncode == 1, said
        assert "Traceback" not in said
        assert "Warning" not in said
        assert not self.outputs.exists() or list(self.outputs.rglob("*")) == []
        return said


def test_the_stage_prints_its_message_alone(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(LIST[:-1])
    wanted = f"not JSON: wanted ',' or ']' at line 1, column {len(LIST)}, where the file ends."
    hint = "data.on_invalid: skip keeps the 12 records before it."
    assert Stage(tmp_path, "x.json").fails() == f"\nprep: x.json: {wanted} {hint}\n"


@pytest.mark.parametrize("name", ["x", "x/.hidden"])
def test_the_stage_does_not_wait_for_a_pipe(tmp_path: Path, name: str) -> None:
    if name != "x":
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "a.jsonl").write_bytes(LINES)
    os.mkfifo(tmp_path / name)
    assert Stage(tmp_path, "x").fails().startswith("\nprep: x")


def test_the_stage_survives_a_bomb_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(LINES + BOMB + b"\n" + KEY_BOMB)
    said = Stage(tmp_path, "x.jsonl").fails()
    assert "  x.jsonl:13: not usable JSON: nested too deeply\n  x.jsonl:14: not usable" in said


def test_the_stage_can_quote_what_the_terminal_cannot_show(tmp_path: Path) -> None:
    (tmp_path / "ä.jsonl").write_bytes(LINES + '{"schön ☺": 1}'.encode())
    said = Stage(tmp_path, "ä.jsonl", on_invalid="skip", PYTHONIOENCODING="ascii").succeeds()
    assert r"\xe4.jsonl:13: its layout is not known: found 'sch\xf6n \u263a'" in said
    ledger = json.loads((tmp_path / "out" / "prep.json").read_text())
    assert ledger["num_invalid"] == {"unknown_layout": 1}


def test_faults_found_by_several_processes_arrive_as_one_message(tmp_path: Path) -> None:
    padded = turns("a", "b", note="x" * 300_000)
    faulty = turns("a", None, note="x" * 300_000)
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([LINES, *[faulty, padded, padded] * 5]))
    said = Stage(tmp_path, "x.jsonl", TUNING_WORKERS="2").fails()
    places = [
        f"  x.jsonl:{14 + 3 * n}: turn 2: 'text': wanted text, found nothing" for n in range(5)
    ]
    assert said.splitlines()[-7:] == [
        "prep: x.jsonl: 5 of 27 records are not dialogues:",
        *places,
        MEND,
    ]


EDITS: dict[str, Callable[[Path], object]] = {
    "to other dialogues": lambda path: path.write_bytes(turns("And now?", "Now this.")),
    "to what is not JSON": lambda path: path.write_bytes(b"{"),
    "to nothing": lambda path: path.write_bytes(b""),
    "to no file": Path.unlink,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_edited_while_it_is_read_is_named_as_the_cause(
    tmp_path: Path, edit: str
) -> None:
    """The stage prints a line for each file; once the pipe is full it waits until we read on.

    400 lines are 96 kB, a pipe holds 64.
    """
    folder = tmp_path / "x"
    folder.mkdir()
    names = [f"{number:03}{'-' * 200}.jsonl" for number in range(400)]
    for name, dialogue in zip(names, generated(400), strict=True):
        (folder / name).write_text(json.dumps(as_record(dialogue)))
    stage = Stage(tmp_path, "x")
    assert stage.process.stdout
    assert stage.process.stdout.read(1) == b"p"  # it has begun, and cannot come to the end
    EDITS[edit](folder / names[-1])
    said = stage.fails()
    assert f"\nprep: changed while this stage ran: x/{names[-1]}. Nothing was published" in said
