"""The bytes of a file that may be compressed with gzip or zstd."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import zstandard

from tuning.run.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = frozenset({".gz", ".zst"})

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins with one of them too
_ZSTD_READ_BYTES = 2**12  # at most 128 MB when decompressed, zstd's best being 128 KB of 4 bytes
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-Zip",
    b"\x04\x22\x4d\x18": "lz4",
}


def compression_of(path: Path) -> str | None:
    """``gzip``, ``zstd`` or none, by the file's first bytes.

    Raises:
        UserError: it is compressed in another way, or its name says that it is and it is not.
    """
    with path.open("rb") as file:
        start = file.read(8)
    found = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if found not in {None, "gzip", "zstd"}:
        raise UserError(
            f"{path}: compressed with {found}; wanted gzip, zstd or plain JSON. Decompress it "
            "first."
        )
    if start and not found and path.suffix.lower() in SUFFIXES:
        raise UserError(
            f"{path} is neither gzip nor zstd, though its name ends in {path.suffix}. If it is "
            "plain JSON, name it so."
        )
    if start.startswith(_UTF_16):
        raise UserError(f"{path} is UTF-16 or UTF-32; save the file as UTF-8.")
    return found


@contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; damage in the compressed stream is the user's to mend."""
    opened: IO[bytes]
    match compression_of(path):
        case "gzip":
            opened = cast(IO[bytes], gzip.open(path))  # noqa: SIM115 (closed below)
        case "zstd":
            opened = cast(IO[bytes], io.BufferedReader(_ZstdFile(path)))
        case _:
            opened = path.open("rb")
    with opened as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise UserError(f"{path} is damaged or ends too early: {error}.") from None


class _ZstdFile(io.RawIOBase):
    """Reads all frames; ``zstandard.open`` takes a file that ends within one for a whole file."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._output = memoryview(b"")

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Decompress some more."""
        while not self._output:
            block = self._frame.unused_data or self._file.read(_ZSTD_READ_BYTES)
            if not block:
                if not self._frame.eof:
                    raise EOFError("its last zstd frame is not whole")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(block))
        target = memoryview(buffer)
        num_bytes = min(len(target), len(self._output))
        target[:num_bytes] = self._output[:num_bytes]
        self._output = self._output[num_bytes:]
        return num_bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
