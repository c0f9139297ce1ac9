"""Pieces hold every record exactly once, and no more of the file is in memory than a few of them.

The size of a piece is set to a few bytes here, so that every border is somewhere.
"""

from __future__ import annotations

import gzip
import json
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tuning.reading import records as reading
from tuning.reading.pieces import LineRange, RawRecord, data_files, read_pieces
from tuning.run.errors import UserError

sizes = st.integers(1, 40)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}
TEXT = "aé☺😀\u2028\x85 "
lines = st.text(st.sampled_from(TEXT + '{}[]",:\\\r\t\x0b\x0c'), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from(TEXT + '"\\/\n\0\ud83d\ude00[]{},:'))
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def read(path: Path, piece_bytes: int, name: str = "", **options: Any) -> list[RawRecord]:
    """All records, with pieces of this size; a piece goes to a worker by pickle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE_BYTES", piece_bytes)
        return [
            record
            for piece in read_pieces(path, name, **options)
            for record in pickle.loads(pickle.dumps(piece)).records()
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("reading")
    return made


@given(
    lines=st.lists(lines, min_size=1, max_size=8),
    piece_bytes=sizes,
    bom=st.booleans(),
    end=st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    compression=st.sampled_from(list(COMPRESSIONS)),
)
def test_every_line_comes_out_once_with_its_number(
    folder: Path, lines: list[str], piece_bytes: int, bom: bool, end: str, compression: str
) -> None:
    content = ("\n".join(lines) + end).encode()
    path = folder / f"mine.jsonl{compression}"
    path.write_bytes(COMPRESSIONS[compression](b"\xef\xbb\xbf" * bom + content))
    wanted = [
        RawRecord(f"{path}:{number}", f"a/b:line-{number}", line, "a/b")
        for number, line in enumerate(content.split(b"\n"), start=1)
        if line.strip()
    ]
    if content or bom:
        assert read(path, piece_bytes, name="a/b") == wanted


@given(
    elements=st.lists(documents, max_size=6),
    piece_bytes=sizes,
    bom=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
    is_ascii=st.booleans(),
    compression=st.sampled_from(list(COMPRESSIONS)),
)
def test_every_element_of_a_list_comes_out_once_with_its_number(
    folder: Path,
    elements: list[Any],
    piece_bytes: int,
    bom: bool,
    indent: int | None,
    is_ascii: bool,
    compression: str,
) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=is_ascii).encode(errors="replace")
    path = folder / f"mine.json{compression}"
    path.write_bytes(COMPRESSIONS[compression](b"\xef\xbb\xbf" * bom + text))
    records = read(path, piece_bytes, name="a")
    assert [json.loads(record.text) for record in records] == json.loads(text)
    assert [(record.where, record.key) for record in records] == [
        (f"{path}, record {number}", f"a:record-{number}") for number in range(1, len(elements) + 1)
    ]


@given(
    pairs=st.lists(st.tuples(st.text(st.sampled_from(TEXT + '"\\\n')), documents), max_size=6),
    piece_bytes=sizes,
    space=st.sampled_from(["", " ", "\r\n\t"]),
)
def test_every_value_of_an_object_comes_out_once_with_its_key(
    folder: Path, pairs: list[tuple[str, Any]], piece_bytes: int, space: str
) -> None:
    """A repeated key too: ``json.loads`` alone would drop all but the last."""
    members = f",{space}".join(f"{json.dumps(key)}{space}:{json.dumps(v)}" for key, v in pairs)
    path = folder / "object.json"
    path.write_text(f"{space}{{{space}{members}{space}}}{space}", encoding="utf-8", newline="")
    records = read(path, piece_bytes, name="p")
    found = [(json.dumps(r.key.removeprefix("p:")), json.loads(r.text)) for r in records]
    assert found == [(json.dumps(key), json.loads(json.dumps(value))) for key, value in pairs]


@pytest.mark.parametrize("piece_bytes", range(1, 30))
def test_no_border_falls_within_a_number_or_a_word(tmp_path: Path, piece_bytes: int) -> None:
    texts = ["1.5", "12", "1e+5", "-2.25E-3", "1E7", "-0", "true", "null", "-Infinity", "false"]
    path = tmp_path / "mine.json"
    path.write_text(f"[{','.join(texts)}]")
    assert [record.text for record in read(path, piece_bytes)] == texts


@example(entry={"turns": [None]}, piece_bytes=1)
@given(entry=st.dictionaries(st.sampled_from(["turns", "id", "x"]), documents), piece_bytes=sizes)
def test_an_object_that_is_a_record_stays_whole(
    folder: Path, entry: dict[str, Any], piece_bytes: int
) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps({"turns": [], **entry}))
    written = json.loads(path.read_text())  # halves of a character side by side become one
    [record] = read(
        path, piece_bytes, is_record=lambda value: isinstance(value, dict) and "turns" in value
    )
    assert json.loads(record.text) == written
    assert (record.where, record.key) == (f"{path}, record 1", "record-1")


@given(document=documents, cut=st.floats(0, 1, exclude_max=True), piece_bytes=sizes)
def test_a_file_that_ends_too_early_is_never_taken_for_a_whole_one(
    folder: Path, document: Any, cut: float, piece_bytes: int
) -> None:
    text = json.dumps([document, document]).encode()
    path = folder / "cut.json"
    path.write_bytes(text[: int(cut * len(text))])
    with pytest.raises(UserError, match=r"is empty|not JSON: .*"):
        read(path, piece_bytes)


@given(
    text=st.text(st.sampled_from('[]{}",:1.eé\\ \n'), min_size=1, max_size=20), piece_bytes=sizes
)
def test_what_is_json_and_what_is_not_is_as_python_has_it(
    folder: Path, text: str, piece_bytes: int
) -> None:
    if isinstance(_first_line(text), dict | list):
        return  # may be JSONL
    path = folder / "any.json"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        wanted = json.loads(text)
    except json.JSONDecodeError:
        wanted = None
    if isinstance(wanted, list):
        assert [json.loads(record.text) for record in read(path, piece_bytes)] == wanted
    elif isinstance(wanted, dict):
        assert {r.key: json.loads(r.text) for r in read(path, piece_bytes)} == wanted
    else:
        with pytest.raises(UserError, match=r"any\.json(:| is (empty|a text file))"):
            read(path, piece_bytes)


def _first_line(text: str) -> object:
    try:
        return json.loads(text.lstrip().partition("\n")[0])
    except json.JSONDecodeError:
        return None


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 64, 2**20])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('["☺",\n\n "x" ,\r\n[1, 2 3]]', "Expecting ',' delimiter at line 4, column 7."),
        ('["☺",\n\n {"x": 1} ,\r\n{\'a\': 1}]', "Expecting property name enclosed in double "
         "quotes (found a single quote: Python's form; write it with json.dumps) at line 4, "
         "column 2."),
        ('["☺",\n\n "x" ,\r\ntru]', "Expecting value at line 4, column 1."),
        ('["☺",\n\n "x" ,\r\n]', "found a comma after the last item at line 4, column 1."),
        ('["☺",\n\n "x" ,\r\n// y\n]', "Expecting value (found a comment, which JSON does not "
         "have) at line 4, column 1."),
        ('["☺",\n\n "x" \r\n] ]', "wanted the end of the file at line 4, column 3."),
        ('["☺",\n\n "x" 1', "wanted ',' or ']' at line 3, column 6."),
        ('["☺",\n\n "x" ', "wanted ',' or ']' at line 3, column 6, where the file ends."),
        ('["☺",\n\n "x', "Unterminated string starting at line 3, column 2."),
        ('["☺",\n\n{"x": [1', "Expecting ',' delimiter at line 3, column 9, where the file ends."),
        ('{"☺": 1,\n\n"a" 2}', "wanted ':' at line 3, column 5."),
        ('{"☺": 1,\n\n2: 3}', "wanted a key in double quotes at line 3, column 1."),
        ('{"☺": 1\n\n"a": 2}', "wanted ',' or '}' at line 3, column 1."),
        ("{", "wanted a key in double quotes at line 1, column 2, where the file ends."),
    ],
)  # fmt: skip
def test_a_fault_is_placed_by_line_and_column_however_far_in(
    tmp_path: Path, piece_bytes: int, text: str, fault: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    with pytest.raises(UserError) as caught:
        read(path, piece_bytes)
    found, _, kept = str(caught.value).partition(" data.on_invalid: skip keeps the ")
    assert found == f"{path}: not JSON: {fault}"
    assert kept in ("", "record before it.", "2 records before it.")


@pytest.mark.parametrize("piece_bytes", [1, 3, 8, 2**20])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_is_placed_in_the_file(
    tmp_path: Path, piece_bytes: int, bom: bytes
) -> None:
    path = tmp_path / "mine.json"
    start = bom + '["☺", "é",\n"'.encode()
    path.write_bytes(start + b'caf\xe9"]')
    with pytest.raises(UserError, match=rf"byte {len(start) + 3} is not UTF-8"):
        read(path, piece_bytes)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz", "mine.json", "mine.json.zst"])
def test_a_record_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_RECORD_BYTES", 1000)
    path = tmp_path / name
    content = b'[1,\n"' + b"x" * 5000 + b'"]'
    path.write_bytes(COMPRESSIONS["" if path.suffix.startswith(".json") else path.suffix](content))
    with pytest.raises(UserError, match=r"mine\.json.* a record of more than 1,000 bytes; wanted"):
        read(path, 100)


def test_lines_on_disk_stay_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 300_000)
    pieces = list(read_pieces(path))
    assert len(pieces) == 3
    assert all(isinstance(piece, LineRange) for piece in pieces)
    assert max(len(pickle.dumps(piece)) for piece in pieces) < 500


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_sixty_megabytes_are_read_in_a_few(tmp_path: Path, suffix: str, compression: str) -> None:
    compressed, source = COMPRESSIONS[compression], random.Random(7)
    texts = [source.randbytes(4_000).hex() for _ in range(150)]
    records = [json.dumps({"turns": [{"speaker": "a", "text": text}]}) for text in texts]
    end = "\n" if suffix == ".jsonl" else ",\n"
    block = compressed("".join(record + end for record in records).encode())
    path = tmp_path / f"mine{suffix}{compression}"
    with path.open("wb") as file:
        file.write(compressed(b"[" * (suffix == ".json")))
        for _ in range(50):
            file.write(block)
        file.write(compressed(b"1]" if suffix == ".json" else b""))
    tracemalloc.start()
    try:
        sizes = [len(record.text) for piece in read_pieces(path) for record in piece.records()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sizes) == 50 * 150 + (suffix == ".json")
    assert sum(sizes) > 60_000_000
    assert peak < 12_000_000


def test_a_bomb_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """Many megabytes of spaces in a few kilobytes, before the first record."""
    path = tmp_path / "mine.json.zst"
    spaces = zstandard.compress(b" " * 2**24)
    assert len(spaces) < 2**13
    path.write_bytes(spaces * 8 + zstandard.compress(b'[{"a": 1}]'))
    tracemalloc.start()
    try:
        [record] = [record for piece in read_pieces(path) for record in piece.records()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.text == '{"a": 1}'
    assert peak < 2**26


@pytest.mark.parametrize("compressed", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_compressed_file_that_was_cut_off_is_never_taken_for_a_whole_one(
    tmp_path: Path, compressed: Callable[[bytes], bytes], kept: float, suffix: str
) -> None:
    numbers = [{"number": str(number * 7919)} for number in range(50_000)]
    lines = b"".join(json.dumps(n).encode() + b"\n" for n in numbers)
    content = compressed(lines if suffix == ".jsonl" else json.dumps(numbers).encode())
    path = tmp_path / f"mine{suffix}.x"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"mine\.jsonl?\.x is damaged or ends too early"):
        read(path, 2**20)


@pytest.mark.parametrize("compressed", [gzip.compress, zstandard.compress])
def test_compressed_parts_one_after_another_are_one_file(
    tmp_path: Path, compressed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "mine.jsonl.x"
    path.write_bytes(b"".join(compressed(part) for part in (b'{"a":', b"1}\n", b"", b'{"b":2}')))
    path = path.rename(tmp_path / "mine.jsonl.gz")
    assert [record.text for record in read(path, 2**20)] == [b'{"a":1}', b'{"b":2}']


def test_the_files_of_a_folder_come_sorted_and_hidden_ones_not_at_all(tmp_path: Path) -> None:
    names = ["b.json", "a/z.jsonl.gz", "a/B.JSON.ZST", "a.ndjson", "c.json"]
    for name in [*names, ".hidden.json", ".hidden/x.json", "a/.DS_Store"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.json").symlink_to("b.json")
    files, passed_over = data_files(tmp_path)
    found = [str(file.relative_to(tmp_path)) for file in files]
    assert found == ["a/B.JSON.ZST", "a/z.jsonl.gz", "a.ndjson", "b.json", "c.json", "link.json"]
    assert passed_over == []
    assert data_files(tmp_path / "b.json") == ([tmp_path / "b.json"], [])


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_what_was_read_is_said_before_each_piece_in_bytes_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compression: str
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", 2**14)
    source = random.Random(1)
    rows = [{"prompt": source.randbytes(40).hex(), "response": "yes"} for _ in range(4_000)]
    texts = {
        "a.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        "a.json": json.dumps(rows),
        "a.csv": "prompt,response\n" + "".join(f"{row['prompt']},yes\n" for row in rows),
    }
    path = tmp_path / f"{name}{compression}"
    path.write_bytes(COMPRESSIONS[compression](texts[name].encode()))
    num_bytes: list[int] = []
    at_piece = [sum(num_bytes) for _ in read_pieces(path, on_read=num_bytes.append)]
    assert at_piece == sorted(at_piece) and len({*at_piece}) > 2, "not all at once"
    assert 0 < at_piece[0] < path.stat().st_size / 2
    assert path.stat().st_size * 0.6 < at_piece[-1] <= path.stat().st_size
