"""The bytes of a file as UTF-8: decompressed from gzip or zstd, recoded from UTF-16 or UTF-32."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import zstandard

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_ZSTD_READ_BYTES = 2**12  # at most 128 MB when decompressed, zstd's best being 128 KB of 4 bytes
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, UnicodeDecodeError)


def compression_of(path: Path) -> str | None:
    """``gzip``, ``zstd`` or none, by the file's first bytes, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return None


def encoding_of(start: bytes) -> str | None:
    """UTF-16 or UTF-32 by its mark, or by where the NULs of two or one characters are.

    RFC 4627, section 3: a JSON text begins with two characters of ASCII. None for all else.
    """
    for mark, encoding in (
        (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as that of UTF-16 does
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if start.startswith(mark):
            return encoding
    return {
        b"x.x.": "utf-16-le",
        b".x.x": "utf-16-be",
        b"x...": "utf-32-le",
        b"...x": "utf-32-be",
    }.get(bytes(ord("x" if byte else ".") for byte in start[:4]))


class Plain(io.BufferedReader):
    """A file's bytes in UTF-8. Damage ends them as the file's end would; ask for it there."""

    def __init__(self, path: Path, bytes_of: _Bytes, source: BinaryIO) -> None:
        """Begin before the first byte; the source is the file on disk."""
        self._path = path
        self._sound = _Sound(bytes_of)
        self._source = source
        self._num_told = 0
        super().__init__(self._sound)

    @property
    def num_bytes(self) -> int:
        """The number of bytes that the file gave so far, those that are only buffered included."""
        return self._sound.num_bytes

    def num_new(self) -> int:
        """The number of bytes that were read of the file on disk since this was last asked."""
        before, self._num_told = self._num_told, self._source.tell()
        return self._num_told - before

    @property
    def damage(self) -> str:
        """What is wrong with the file where its bytes ended; empty if it is whole."""
        error = self._sound.damage
        if isinstance(error, UnicodeDecodeError):
            return f"{self._path} is not whole {error.encoding.upper()}: {error.reason}."
        return f"{self._path} is damaged or ends too early: {error}." if error else ""

    def num_left(self) -> int:
        """The number of bytes that have not been read, those behind damage as they are on disk."""
        num_bytes = 0
        while block := self.read(2**20):
            num_bytes += len(block)
        if self._sound.damage:
            num_bytes += self._path.stat().st_size - self._source.tell()
        return num_bytes


@contextmanager
def open_plain(path: Path) -> Iterator[Plain]:
    """The file's bytes, decompressed and in UTF-8, which may still hold what is not UTF-8."""
    compression = compression_of(path)
    with ExitStack() as stack:
        source = stack.enter_context(path.open("rb"))
        bytes_of: _Bytes = source
        if compression == "gzip":
            bytes_of = stack.enter_context(gzip.GzipFile(fileobj=source, mode="rb"))
        elif compression == "zstd":
            bytes_of = stack.enter_context(io.BufferedReader(_ZstdFile(source)))
        start = _Start(bytes_of)
        encoding = encoding_of(start.peeked)
        bytes_of = _Recoded(start, encoding) if encoding else start
        yield Plain(path, bytes_of, source)


class _Bytes(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Start:
    """Gives its first bytes, and damage among them, once more than once."""

    def __init__(self, bytes_of: _Bytes) -> None:
        """Look at four bytes."""
        self._bytes_of = bytes_of
        self._damage: Exception | None = None
        self.peeked = b""
        try:
            while len(self.peeked) < 4 and (more := bytes_of.read1(4 - len(self.peeked))):
                self.peeked += more
        except _DAMAGE as error:
            self._damage = error
        self._left = self.peeked

    def read1(self, size: int, /) -> bytes:
        """Some of the next bytes; none at the end."""
        if self._left:
            given, self._left = self._left[:size], self._left[size:]
            return given
        if self._damage:
            raise self._damage
        return self._bytes_of.read1(size)


class _Recoded:
    """Another encoding's text in UTF-8."""

    def __init__(self, bytes_of: _Bytes, encoding: str) -> None:
        """Begin."""
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._text = b""

    def read1(self, size: int, /) -> bytes:
        """Some of the next bytes; none at the end."""
        while not self._text:
            block = self._bytes_of.read1(size)
            self._text = self._decoder.decode(block, final=not block).encode()
            if not block:
                break
        given, self._text = self._text[:size], self._text[size:]
        return given


class _Sound(io.RawIOBase):
    """Ends where the damage begins, and keeps what it is."""

    def __init__(self, bytes_of: _Bytes) -> None:
        """Begin."""
        self._bytes_of = bytes_of
        self.damage: Exception | None = None
        self.num_bytes = 0

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some more, by single steps of the decompressor: an error loses what a step holds."""
        target = memoryview(buffer)
        block = b""
        if not self.damage:
            try:
                block = self._bytes_of.read1(len(target))
            except _DAMAGE as error:
                self.damage = error
        target[: len(block)] = block
        self.num_bytes += len(block)
        return len(block)


class _ZstdFile(io.RawIOBase):
    """Reads all frames; ``zstandard.open`` takes a file that ends within one for a whole file."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin."""
        self._file = file
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
