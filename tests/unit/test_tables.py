"""CSV, TSV, Parquet and Arrow: a record per row, with its place, in bounded memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tracemalloc
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import as_record, generated
from tuning.reading import columns, records
from tuning.reading.columns import Batch, RowGroups
from tuning.reading.pieces import RawRecord, read_pieces
from tuning.reading.records import Break
from tuning.run.errors import UserError

ROWS = [as_record(dialogue) for dialogue in generated(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("tables")
    return made


def read(path: Path, piece_bytes: int = 2**20, **options: Any) -> list[RawRecord]:
    """All records, with pieces of this size; a piece goes to a worker by pickle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "PIECE_BYTES", piece_bytes)
        return [
            record
            for piece in read_pieces(path, **options)
            for record in pickle.loads(pickle.dumps(piece)).records()
        ]


def decoded(found: list[RawRecord]) -> list[Any]:
    assert not [record.fault for record in found if record.fault]
    return [json.loads(record.text) for record in found]


cells = st.text(st.sampled_from('aé☺\u2028"\n\r,;\t '), max_size=8)


@given(
    rows=st.lists(st.tuples(cells, cells), max_size=8),
    piece_bytes=st.integers(1, 60),
    bom=st.booleans(),
    suffix=st.sampled_from([".csv", ".tsv", ".csv.gz", ".tsv.zst"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_every_row_comes_out_once_with_its_number(
    folder: Path,
    rows: list[tuple[str, str]],
    piece_bytes: int,
    bom: bool,
    suffix: str,
    delimiter: str,
    encoding: str,
) -> None:
    written = io.StringIO(newline="")
    delimiter = "\t" if suffix.startswith(".tsv") else delimiter
    table = csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    table.writerows([("prompt", "response"), *rows])
    content = ("\ufeff" * (bom and encoding == "utf-8") + written.getvalue()).encode(encoding)
    pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}
    path = folder / f"mine{suffix}"
    path.write_bytes(pack.get(path.suffix, bytes)(content))
    found = read(path, piece_bytes, name="a/b")
    assert decoded(found) == [{"prompt": p or None, "response": r or None} for p, r in rows]
    assert [(record.where, record.key, record.file) for record in found] == [
        (f"{path}, row {number}", f"a/b:row-{number}", "a/b") for number in range(2, len(rows) + 2)
    ]


def test_a_faulty_row_is_that_record_s_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,2\n3\n"4"x,5\n6,7,8\n\ncaf\xe9,9\n10,"11')
    found = read(path)
    assert [
        (r.where.removeprefix(f"{path}, "), r.text, r.fault.partition(";")[0]) for r in found
    ] == [
        ("row 2", '{"a": "1", "b": "2"}', ""),
        ("row 3", "null", "wanted 2 cells, as the header has, found 1"),
        ("row 4", "null", "line 4 is no row of a table: ',' expected after '\"'"),
        ("row 5", "null", "wanted 2 cells, as the header has, found 3"),
        ("row 7", "null", "a cell is not UTF-8"),
        ("row 8", "null", "line 8 is no row of a table: unexpected end of data"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("x.csv", "", "x.csv is empty."),
        ("x.csv", "Where is the kettle?,On the shelf.\n", "x.csv has no header: row 1 begins with "
         "'Where is the kettle?'; wanted the columns' names in its first row, such as prompt and "
         "response; add that row."),
        ("x.tsv", "How do I polish it\tAsk the station desk.\n", "x.tsv has no header: row 1 "
         "begins with 'Ask the station desk.'; wanted the columns' names"),
        ("x.tsv", "a\ta\n", "x.tsv: row 1 has the name 'a' twice; wanted"),
        ("x.csv", "a,\n", "x.csv: row 1 has no name for column 2; wanted"),
    ],
)  # fmt: skip
def test_a_table_without_a_header_is_named(
    tmp_path: Path, name: str, text: str, fault: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(fault)


def test_the_column_that_pandas_adds_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",prompt\n0,Hello\n")
    assert decoded(read(path)) == [{"": "0", "prompt": "Hello"}]


def test_json_named_csv_is_json(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('[{"a": 1}]')
    assert decoded(read(path)) == [{"a": 1}]


def test_sixty_megabytes_of_csv_are_read_in_a_few(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    cell = "word, " * 500
    with path.open("w") as file:
        file.write("prompt,response\n")
        for _ in range(20_000):
            file.write(f'"{cell}","ok"\n')
    tracemalloc.start()
    try:
        num_rows = sum(1 for piece in read_pieces(path) for _ in piece.records())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_rows == 20_000
    assert peak < 12_000_000


def test_whole_rows_before_damage_are_kept(tmp_path: Path) -> None:
    rows = [f"{number},{number * 7919}\n" for number in range(50_000)]
    path = tmp_path / "x.csv.gz"
    content = gzip.compress(("a,b\n" + "".join(rows)).encode())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"ends too early: .* skip keeps the [\d,]+ records before"):
        read(path)
    breaks: list[Break] = []
    found = decoded(read(path, 5000, on_break=breaks.append))
    assert 10_000 < len(found) < 40_000
    assert found == [{"a": str(n), "b": str(n * 7919)} for n in range(len(found))]
    assert breaks[0].byte == len("a,b\n" + "".join(rows[: len(found)]))


def write_parquet(path: Path, table: pa.Table, rows_per_group: int) -> None:
    pq.write_table(table, path, row_group_size=rows_per_group)


def write_stream(path: Path, table: pa.Table, rows_per_batch: int) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, rows_per_batch)


def write_file(path: Path, table: pa.Table, rows_per_batch: int) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, rows_per_batch)


def write_feather(path: Path, table: pa.Table, rows_per_batch: int) -> None:
    pyarrow.feather.write_feather(table, str(path), compression="zstd", chunksize=rows_per_batch)


WRITERS: dict[str, Callable[[Path, pa.Table, int], None]] = {
    "x.parquet": write_parquet,
    "x.arrow": write_stream,
    "y.arrow": write_file,
    "x.feather": write_feather,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("rows_per_group", [1, 7, 1000])
@pytest.mark.parametrize("piece_bytes", [1, 3000, 2**20])
@pytest.mark.parametrize("max_group_bytes", [0, 2**24])
def test_every_row_of_columns_comes_out_once(
    tmp_path: Path,
    name: str,
    rows_per_group: int,
    piece_bytes: int,
    max_group_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "MAX_GROUP_BYTES", max_group_bytes)
    path = tmp_path / name
    WRITERS[name](path, pa.Table.from_pylist(ROWS), rows_per_group)
    found = read(path, piece_bytes, name="f")
    assert decoded(found) == ROWS
    assert [(record.where, record.key, record.file) for record in found] == [
        (f"{path}, row {number}", f"f:row-{number}", "f") for number in range(1, len(ROWS) + 1)
    ]


def test_what_json_has_no_form_for_is_text_or_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    row = {
        "day": date(2024, 5, 1),
        "when": datetime(2024, 5, 1, 10, 30),
        "price": Decimal("1.50"),
        "text": b"caf\xc3\xa9",
        "image": b"\xff\xd8\xff",
        "score": 0.5,
        "nothing": None,
        "messages": [{"role": "user", "name": None}, {"role": "tool", "name": "x"}],
    }
    pq.write_table(pa.Table.from_pylist([row]), path)
    assert decoded(read(path)) == [
        row
        | {
            "day": "2024-05-01",
            "when": "2024-05-01T10:30:00",
            "price": "1.50",
            "text": "café",
            "image": {"bytes": 3},
            "messages": [{"role": "user"}, {"role": "tool", "name": "x"}],
        }
    ]


def test_text_that_is_not_utf8_is_that_row_s_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    bad = pa.array([b"good", b"caf\xe9", b"fine"]).view(pa.string())
    write_stream(path, pa.table({"text": bad}), 10)
    found = read(path)
    assert [record.text for record in found] == ['{"text": "good"}', "null", '{"text": "fine"}']
    assert "can't decode byte 0xe9 in position 3" in found[1].fault


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_table_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, pa.Table.from_pylist(ROWS), 10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name} is damaged or ends too early: .*\."):
        read(path)
    path.write_bytes(content[:4] + b"\0" * 40 + content[44:])
    with pytest.raises(UserError, match=rf"{name}"):
        assert decoded(read(path)) != ROWS
        raise UserError(name)  # Arrow has no checksums of its own: other values are not seen


def test_whole_batches_before_the_end_of_a_stream_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_stream(path, pa.Table.from_pylist(ROWS), 10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    breaks: list[Break] = []
    found = decoded(read(path, on_break=breaks.append))
    assert found == ROWS[: len(found)]
    assert len(found) in (30, 40, 50)
    assert breaks[0].byte + breaks[0].num_bytes == len(content) * 3 // 4


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_columns_inside_a_compression_are_named(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x")
    (tmp_path / "x.parquet.gz").write_bytes(pack((tmp_path / "x").read_bytes()))
    with pytest.raises(UserError, match=r"is Parquet inside (gzip|zstd)\. Decompress it"):
        read(tmp_path / "x.parquet.gz")


def test_what_is_named_parquet_and_is_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match=r"x\.parquet is not what its name says: it begins with"):
        read(path)
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert decoded(read(path.rename(tmp_path / "x.json"))) == ROWS


def test_small_row_groups_stay_on_disk_and_come_together(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.Table.from_pylist(ROWS), 1)
    [piece] = read_pieces(path)
    assert isinstance(piece, RowGroups)
    assert piece.groups == tuple(range(60))


def test_a_large_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """Ninety megabytes of random letters in one row group."""
    path = tmp_path / "x.parquet"
    text = pa.array([f"{number:06}" + "x" * 3000 for number in range(30_000)])
    pq.write_table(pa.table({"text": text}), path, use_dictionary=False, compression="none")
    del text
    before = pa.total_allocated_bytes()
    peak = num_rows = 0
    for piece in read_pieces(path):
        assert isinstance(piece, Batch)
        assert len(piece.stream) < 2_000_000
        num_rows += sum(1 for _ in piece.records())
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert num_rows == 30_000
    assert peak < 16_000_000
