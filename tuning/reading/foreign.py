"""Files that are no records, known by their first bytes, and what to do with each."""

from __future__ import annotations

import re
from pathlib import Path

from tuning.run.errors import UserError

_UNPACK = "Unpack it into a folder, and name that in data.path"
_DECOMPRESS = "Decompress it first; gzip and zstd are read as they are"
_FOREIGN = (
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", _DECOMPRESS),
    (rb"\xfd7zXZ\x00", "compressed with xz", _DECOMPRESS),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", _DECOMPRESS),
    (rb"PK\x03\x04.{26}(?:\[Content_Types\]|_rels/|docProps/|xl/|word/|mimetype)",
     "an office document", "Save a table as CSV, with column names in its first row"),
    (rb"\xd0\xcf\x11\xe0", "an office document", "Save a table as CSV, with column names in its "
     "first row"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", _UNPACK),
    (rb"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (rb"Rar!", "a RAR archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"%PDF-", "a PDF document", "Bring its text as JSON or CSV"),
    (rb"SQLite format 3\x00", "an SQLite database", "Export its table as CSV or Parquet"),
    (rb"FEA1", "Feather of version 1", "Write it again as Parquet or Arrow"),
    (rb"version https://git-lfs\.github\.com", "a pointer of git LFS to a file that is not here",
     "Get it with git lfs pull"),
)  # fmt: skip
"""A pattern of the first bytes, what such a file is, and what to do with it."""


def refuse_foreign(path: Path, start: bytes, compression: str | None = None) -> None:
    """Raise ``UserError`` for what is known by its first bytes, and is no file of records."""
    within = f" inside {compression}" if compression else ""
    for pattern, what, remedy in _FOREIGN:
        if re.match(pattern, start, re.DOTALL):
            raise UserError(f"{path} is {what}{within}. {remedy}.")
