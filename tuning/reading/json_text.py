"""JSON of any length from a stream: punctuation taken one by one, values cut out whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from tuning.run.errors import UserError

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonText:
    """A JSON file's characters, of which it holds a stretch at a time."""

    # Numbers stay text: one of thousands of digits is its own record's fault, not the file's.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)

    def __init__(
        self, path: Path, file: IO[bytes], block_bytes: int, check_size: Callable[[int, str], None]
    ) -> None:
        """Begin before the first character.

        Args:
            path: Named in errors.
            file: The file's bytes.
            block_bytes: Read at once, at least.
            check_size: Raises if a value of that size, at that place, is too large.
        """
        self._path = path
        self._file = file
        self._block_bytes = block_bytes
        self._check_size = check_size
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._num_bytes = 0
        self._buffer = ""
        self._position = 0
        self._at_end = False
        self._num_lines = 0  # line ends before the buffer
        self._column = 0  # characters between the last of them and the buffer

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._buffer, self._position)
            assert space, "it matches nothing, too"
            self._position = space.end()
            if self._position < len(self._buffer) or self._at_end:
                return self._buffer[self._position : self._position + 1]
            self._read_more()

    def take(self, character: str, wanted: str | None = None) -> None:
        """Go past a character, which must come next."""
        if self.peek() != character:
            self.fail(wanted or f"wanted {character!r}")
        self._position += 1

    def value(self) -> str:
        """The text of the next JSON value."""
        self.peek()
        while True:
            try:
                _, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if self._at_end or not cut:
                    self.fail(error.msg.removesuffix(" at"), error.pos)
            except RecursionError:
                self.fail("nested too deeply")
            else:
                # The buffer may end within a number: what is read as 1 may be 1e+5 or 1.5.
                if end + 2 < len(self._buffer) or self._at_end:
                    text = self._buffer[self._position : end]
                    self._position = end
                    return text
            self._read_more()

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raise ``UserError`` with the line and column."""
        position = self._position if position is None else position
        before = self._buffer[:position]
        line = self._num_lines + before.count("\n") + 1
        last = before.rfind("\n")
        column = position - last if last >= 0 else self._column + position + 1
        ends = ", where the file ends" if self._at_end and position == len(self._buffer) else ""
        raise UserError(f"{self._path}: not JSON: {message} at line {line}, column {column}{ends}.")

    def _read_more(self) -> None:
        """Drop what is done with; append as much again as is left, and at least a block."""
        done = self._buffer[: self._position]
        self._num_lines += done.count("\n")
        last = done.rfind("\n")
        self._column = len(done) - last - 1 if last >= 0 else self._column + len(done)
        left = self._buffer[self._position :]
        self._check_size(len(left), f"{self._path}, line {self._num_lines + 1}")
        block = self._file.read(max(self._block_bytes, len(left)))
        try:
            text = self._decode.decode(block, final=not block)
        except UnicodeDecodeError as error:
            place = self._num_bytes - (len(error.object) - len(block)) + error.start
            raise UserError(
                f"{self._path}: byte {place} is not UTF-8 ({error.reason}); save the file as UTF-8."
            ) from None
        self._num_bytes += len(block)
        self._at_end = not block
        self._buffer = left + text
        self._position = 0
