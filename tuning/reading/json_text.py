"""JSON of any length from a stream: punctuation taken one by one, values cut out whole."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any, NoReturn

from tuning.reading import records
from tuning.reading.compression import Plain
from tuning.reading.records import BrokenError, check_record_size, num_values

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonText:
    """A JSON file's characters, of which it holds a stretch at a time."""

    # Numbers stay text: one of thousands of digits is its own record's fault, not the file's.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    _skipper = json.JSONDecoder(
        parse_int=str, parse_float=str, object_pairs_hook=lambda pairs: None
    )
    """It finds a value's end, and keeps no object: there may be millions of them in a kilobyte."""

    def __init__(self, path: Path, file: Plain) -> None:
        """Begin before the first character; the path is named in errors."""
        self._path = path
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._num_bytes = 0
        self._num_undecoded = 0
        self._buffer = ""
        self._position = 0
        self._mark: int | None = None
        self._at_end = False
        self._damage = ""  # what is wrong where the text ends
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
                _, end = self._skipper.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if self._at_end or not cut:
                    self.fail(fault_of(error), error.pos, is_cut=cut)
            except RecursionError:
                self.fail("nested too deeply")
            else:
                # The buffer may end within a number: what is read as 1 may be 1e+5 or 1.5.
                if end + 2 < len(self._buffer) or self._at_end:
                    text = self._buffer[self._position : end]
                    self._position = end
                    return text
            self._read_more()

    def key(self) -> str:
        """The next key of an object, its colon taken too."""
        if self.peek() != '"':
            self.fail(slip("wanted a key in double quotes", self._buffer, self._position))
        text: str = json.loads(self.value())
        self.take(":")
        return text

    def decoded(self, text: str) -> Any:
        """A value's text as Python has it; numbers stay text."""
        return self._decoder.decode(text)

    def has_item(self, end: str, number: int) -> bool:
        """Tell whether another item follows in a list or object, past the comma before it."""
        if self.peek() == end:
            return False
        if number:
            self.take(",", f"wanted ',' or {end!r}")
            if self.peek() == end:
                self.fail("found a comma after the last item")
        return True

    def check_end(self) -> None:
        """Raise ``BrokenError`` if something else follows, or the file is not whole."""
        if self.peek():
            self.fail("wanted the end of the file")
        if self._damage:
            raise BrokenError(self._damage)

    def mark(self) -> None:
        """Remember this place, and hold all text from here on."""
        self._mark = self._position

    def num_held(self) -> int:
        """The number of characters since the mark."""
        assert self._mark is not None
        return self._position - self._mark

    def rewind(self) -> None:
        """Go back to the mark and forget it."""
        assert self._mark is not None
        self._position, self._mark = self._mark, None

    def byte(self) -> int:
        """The number of bytes before this place; expensive."""
        pending, _ = self._decode.getstate()
        left = len(self._buffer[self._position :].encode())
        return self._num_bytes - len(pending) - self._num_undecoded - left

    def num_left(self) -> int:
        """The number of bytes from this place to the file's end; nothing can be read after."""
        return self._num_bytes - self.byte() + self._file.num_left()

    def fail(self, message: str, position: int | None = None, *, is_cut: bool = False) -> NoReturn:
        """Raise ``BrokenError`` with the line and column, or with what cuts the file off there."""
        position = self._position if position is None else position
        at_end = self._at_end and position == len(self._buffer)
        if self._damage and (is_cut or at_end):
            raise BrokenError(self._damage)
        before = self._buffer[:position]
        line = self._num_lines + before.count("\n") + 1
        last = before.rfind("\n")
        column = position - last if last >= 0 else self._column + position + 1
        ends = ", where the file ends" if at_end else ""
        raise BrokenError(
            f"{self._path}: not JSON: {message} at line {line}, column {column}{ends}."
        )

    def _read_more(self) -> None:
        """Drop what is done with; append as much again as is left, and at least a block."""
        start = self._position if self._mark is None else self._mark
        done = self._buffer[:start]
        self._num_lines += done.count("\n")
        last = done.rfind("\n")
        self._column = len(done) - last - 1 if last >= 0 else self._column + len(done)
        left = self._buffer[start:]
        where = f"{self._path}, line {self._num_lines + 1}"
        check_record_size(len(left), where, num_values(self._buffer, self._position))
        block = self._file.read(max(records.PIECE_BYTES, len(left)))
        try:
            text = self._decode.decode(block, final=not block)
            self._damage = "" if block else self._file.damage
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode("utf-8")
            self._num_undecoded = len(error.object) - error.start
            place = self._num_bytes + len(block) - self._num_undecoded
            self._decode.reset()
            self._damage = (
                f"{self._path}: byte {place} is not UTF-8 ({error.reason}); save the file as UTF-8."
            )
        self._num_bytes += len(block)
        self._at_end = not block or bool(self._damage)
        self._buffer = left + text
        self._position -= start
        if self._mark is not None:
            self._mark = 0


def fault_of(error: json.JSONDecodeError) -> str:
    """What is wrong with a JSON text, with the slip that it most likely is."""
    return slip(error.msg.removesuffix(" at"), error.doc, error.pos)


def slip(message: str, text: str, position: int) -> str:
    """The message, and the slip of hand that a place in a JSON text shows, if it is one of four."""
    before = text[max(0, position - 100) : position].rstrip(" \t\r\n")
    here = text[position : position + 1]
    if here == "'":
        return f"{message} (found a single quote: Python's form; write it with json.dumps)"
    if here in ("#", "/"):
        return f"{message} (found a comment, which JSON does not have)"
    if here in ("}", "]") and before.endswith(","):
        return f"{message} (found a comma after the last item)"
    if here in ("{", "[") and before.endswith(("}", "]")):
        return f"{message} (a comma is missing)"
    return message
