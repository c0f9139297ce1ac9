"""Files of dialogues, of any size -> pieces of whole raw records, read in bounded memory.

JSON and JSONL, CSV and TSV, WhatsApp's text (each also in gzip or zstd), Parquet and Arrow. Nothing
is decoded here beyond where a record ends: the pieces are small, and each can be decoded and
checked by another process. Plain JSONL and Parquet are handed out as places on disk: a worker reads
its own. A chat of WhatsApp is one record, read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tuning.data_names import suffix_of
from tuning.reading.chat_text import read_chat_text
from tuning.reading.columns import Batch, RowGroups, read_arrow, read_parquet
from tuning.reading.delimited import Rows, read_rows
from tuning.reading.documents import Elements, IsRecord, read_documents
from tuning.reading.folders import data_files
from tuning.reading.kinds import look_into
from tuning.reading.lines import LineRange, Lines, line_ranges, read_lines
from tuning.reading.records import Break, Gathered, RawRecord

__all__ = ["LineRange", "Piece", "RawRecord", "data_files", "read_pieces"]

Piece = LineRange | Lines | Elements | Rows | RowGroups | Batch | Gathered
"""All have ``records()``."""


def read_pieces(
    path: Path,
    name: str = "",
    *,
    is_record: IsRecord | None = None,
    on_break: Callable[[Break], None] | None = None,
    on_beside: Callable[[str], None] = lambda key: None,
    on_read: Callable[[int], None] = lambda num_bytes: None,
) -> Iterator[Piece]:
    """The records of one file, in its order, in pieces of about a megabyte.

    Args:
        path: The file.
        name: Its name where there are several files: begins the ids of records without one.
        is_record: Knows a dialogue from its parts and from what holds many. Without it, .jsonl
            holds lines whatever they are, and the values of a JSON object are records.
        on_break: Takes the place from which on a file cannot be read; the records before it have
            come. Without it, and where no record came, that is an error.
        on_beside: Takes the key of what a JSON object holds beside its records.
        on_read: Takes about how many more bytes of the file were read, before each piece.

    Raises:
        UserError: the file is empty, damaged, or nothing that holds records.
    """
    look = look_into(path, is_record)
    match look.kind:
        case "lines":
            yield from (
                line_ranges(path, name, on_read)
                if look.is_plain
                else read_lines(path, name, on_break, on_read)
            )
        case "document" | "sequence":
            yield from read_documents(
                path,
                name,
                is_sequence=look.kind == "sequence",
                is_record=is_record,
                on_break=on_break,
                on_beside=on_beside,
                on_read=on_read,
            )
        case "delimited":
            is_tsv = suffix_of(path) == ".tsv"
            yield from read_rows(path, name, is_tsv=is_tsv, on_break=on_break, on_read=on_read)
        case "chat text":
            yield read_chat_text(path, name)
        case "parquet":
            yield from read_parquet(path, name, on_read)
        case "arrow file" | "arrow stream":
            is_stream = look.kind == "arrow stream"
            yield from read_arrow(
                path, name, is_stream=is_stream, on_break=on_break, on_read=on_read
            )
