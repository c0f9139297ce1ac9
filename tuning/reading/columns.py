"""Parquet and Arrow -> records: one JSON object per row, structs and lists within as JSON.

Columns keep a null; within a column an absent key and a null are one thing to Arrow, so a null of
a struct is left out. What JSON has no form for becomes text (dates, decimals, bytes that are UTF-8)
or the object ``{"bytes": their number}``, which no layout takes for text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any

from tuning.reading import records
from tuning.reading.records import Break, BrokenError, RawRecord, broken, own_key
from tuning.run.errors import UserError

MAX_GROUP_BYTES = 2**24
"""A larger row group is cut up by the process that reads the file, and not by a worker."""
MAX_GROUP_ROWS = 2**14
BATCH_ROWS = 2**10


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Whole row groups of a Parquet file, still on disk."""

    path: Path
    name: str
    """The file's, where there are several files; else empty."""
    first_row: int
    """Number of the first row, from 1."""
    groups: tuple[int, ...]

    def records(self) -> Iterator[RawRecord]:
        """Every row."""
        with _readable(self.path), _parquet(self.path) as file:
            batches = file.iter_batches(BATCH_ROWS, list(self.groups), use_threads=False)
            yield from _records(self.path, self.name, self.first_row, batches)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of an Arrow file, or of a large row group."""

    path: Path
    name: str
    first_row: int
    stream: bytes
    """In Arrow's format for streams."""

    def records(self) -> Iterator[RawRecord]:
        """Every row."""
        import pyarrow as pa

        with _readable(self.path), pa.ipc.open_stream(self.stream) as batches:
            yield from _records(self.path, self.name, self.first_row, batches)


def read_parquet(
    path: Path, name: str, on_read: Callable[[int], None]
) -> Iterator[RowGroups | Batch]:
    """The row groups of a Parquet file, several small ones together, large ones cut up."""
    with _readable(path), _parquet(path) as file:
        _check_names(path, file.schema_arrow.names)
        groups: list[int] = []
        num_bytes = num_rows = 0
        first_row = 1
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            on_read(path.stat().st_size // file.num_row_groups)
            is_large = group.total_byte_size > MAX_GROUP_BYTES or group.num_rows > MAX_GROUP_ROWS
            is_full = (
                num_bytes + group.total_byte_size > records.PIECE_BYTES
                or num_rows + group.num_rows > MAX_GROUP_ROWS
            )
            if groups and (is_large or is_full):
                yield RowGroups(path, name, first_row, tuple(groups))
                first_row += num_rows
                groups, num_bytes, num_rows = [], 0, 0
            if is_large:
                size = _rows_per_piece(group.total_byte_size, group.num_rows)
                for batch in file.iter_batches(size, [number], use_threads=False):
                    yield Batch(path, name, first_row, _stream(batch))
                    first_row += batch.num_rows
            else:
                groups.append(number)
                num_bytes += group.total_byte_size
                num_rows += group.num_rows
        if groups:
            yield RowGroups(path, name, first_row, tuple(groups))


def read_arrow(
    path: Path,
    name: str,
    *,
    is_stream: bool,
    on_break: Callable[[Break], None] | None,
    on_read: Callable[[int], None],
) -> Iterator[Batch]:
    """The batches of an Arrow file, cut up; the file is mapped, so they need no memory."""
    import pyarrow as pa

    with _readable(path), pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        _check_names(path, reader.schema.names)
        batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
        first_row = 1
        start = 0
        try:
            for batch in batches:
                size = _rows_per_piece(batch.nbytes, batch.num_rows)
                for index in range(0, batch.num_rows, size):
                    part = batch.slice(index, size)
                    on_read(part.nbytes)
                    yield Batch(path, name, first_row, _stream(part))
                    first_row += part.num_rows
                start = source.tell()
        except (pa.ArrowException, OSError) as error:
            fault = BrokenError(f"{path} is damaged or ends too early: {_one_line(error)}.")
            if on_break is None or first_row == 1:
                raise broken(fault, first_row - 1) from None
            on_break(Break(path, start, str(fault), path.stat().st_size - start))


def _rows_per_piece(num_bytes: int, num_rows: int) -> int:
    return min(max(records.PIECE_BYTES * num_rows // max(num_bytes, 1), 1), MAX_GROUP_ROWS)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """The open file, which reads a page at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**16) as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise ``UserError`` for what Arrow finds wrong with the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's
        raise UserError(
            f"{path} is damaged or ends too early: {_one_line(error)}. Copy or export it again."
        ) from None


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _check_names(path: Path, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"{path}: two columns have the name {name[:40]!r}; rename one.")


def _stream(batch: Any) -> bytes:
    """A batch in Arrow's format for streams: of a slice, that part of it alone."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _records(path: Path, name: str, first_row: int, batches: Iterable[Any]) -> Iterator[RawRecord]:
    number = first_row
    for batch in batches:
        for row in _rows(batch):
            where, key = f"{path}, row {number}", own_key(name, f"row-{number}")
            if isinstance(row, str):
                yield RawRecord(where, key, "null", name, row)
            else:
                columns = {column: _as_json(value) for column, value in row.items()}
                yield RawRecord(where, key, json.dumps(columns, ensure_ascii=False), name)
            number += 1


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Every row, or what keeps it from being read."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date before the year 1
        if batch.num_rows == 1:
            yield f"a cell cannot be read: {_one_line(error)}"
            return
        for index in range(batch.num_rows):
            yield from _rows(batch.slice(index, 1))


def _as_json(value: Any) -> Any:
    """A value that JSON has a form for; nulls within structs are left out."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    return value.isoformat() if isinstance(value, date | time) else str(value)
