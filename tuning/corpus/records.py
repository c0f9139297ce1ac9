"""One raw record to its dialogues, or to the fault that keeps it from being one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tuning.corpus.beside import id_of
from tuning.corpus.columns import Columns, compiled, fields_of, search
from tuning.corpus.drafts import Draft, DraftTurn, time_of
from tuning.corpus.faults import Invalid, checked, decoded, kind
from tuning.corpus.id_stems import expression, stem_of
from tuning.corpus.layouts import read_record
from tuning.corpus.messages import Reader
from tuning.dialogue import Dialogue, Turn
from tuning.reading.pieces import RawRecord
from tuning.run.params import DataParams

SPEAKERS = "speakers"
"""The value of ``data.group_by`` that means a dialogue's own speakers."""
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters but tab and line ends: tokenizers have no tokens for them."""
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Record:
    """One dialogue of the input, or the fault that keeps a record from being one."""

    where: str
    dialogue: Dialogue | None = None
    groups: tuple[str, ...] = ()
    """Values of the ``data.group_by`` field, or the tree that the dialogue is a branch of."""
    num_raw_turns: int = 0
    """Turns before those with nothing but white space are left out."""
    num_raw_characters: int = 0
    """Characters before white space is stripped, a line end between two messages of a turn."""
    num_control: int = 0
    """Control characters that were taken out of them."""
    stem: str = ""
    """What stands before the number at the end of its own id, if it has one."""
    grouping: str = ""
    """The ``data.group_by`` that keeps it with others of that stem."""
    reason: str = ""
    """The fault in a word or two, for counting."""
    fault: str = ""
    """Says what was found and what was wanted."""


class RecordReader:
    """Reads records by the settings of ``data``, and counts what it does not use."""

    def __init__(self, data: DataParams) -> None:
        """Take the settings.

        Raises:
            UserError: an expression of ``data.columns`` or ``data.group_by`` is none.
        """
        self._columns = Columns(data.columns)
        self._data = data
        by_field = data.group_by not in (None, SPEAKERS)
        self._group = compiled(str(data.group_by), "data.group_by") if by_field else None
        roles = {name.strip().casefold(): role for name, role in data.roles.items()}
        used = fields_of(self._group) if self._group is not None else frozenset()
        self.reader = Reader(roles, used=used | self._columns.used, branches=data.branches)

    def __call__(self, raw: RawRecord) -> list[Record]:
        """Decode and check one record; whatever is wrong with it becomes its fault."""
        try:
            if raw.fault:
                raise Invalid("not_a_row", raw.fault)
            entry = decoded(raw.text)
            drafts = self._columns.read(entry, self.reader)
            if drafts is None:
                drafts = read_record(entry, self.reader)
            return list(self._records(raw, entry, drafts))
        except Invalid as invalid:
            return [_faulty(raw.where, invalid)]
        except RecursionError:
            return [_faulty(raw.where, Invalid("wrong_layout", "nested too deeply"))]

    def _records(self, raw: RawRecord, entry: Any, drafts: list[Draft]) -> Iterator[Record]:
        given = self._columns.id_of(entry) or id_of(entry)
        own = given or raw.key
        stem = stem_of(given) if given and len(drafts) == 1 else ""
        for draft in drafts:
            where = raw.where + draft.place
            if draft.fault is not None:
                yield _faulty(where, draft.fault)
                continue
            draft.is_log |= raw.is_log
            if _is_newest_first(draft.turns):
                draft.turns.reverse()
            inner = draft.dialogue_id or ""
            name = own + inner if inner[:1] in ("", "/") else inner
            sessions = list(self._sessions(draft))
            for number, turns in enumerate(sessions, start=1):
                session = name if len(sessions) == 1 else f"{name}/{number}"
                record = self._record(where, checked(session, "the id"), draft, turns, entry)
                if stem:
                    setting = expression(entry, self._data.columns.id, stem)
                    record = replace(record, stem=stem, grouping=setting)
                yield record

    def _record(
        self, where: str, name: str, draft: Draft, drafted: list[DraftTurn], entry: Any
    ) -> Record:
        num_control = 0
        turns = []
        for turn in drafted:
            for number, line in enumerate(turn.lines):
                if not line.isprintable() and _CONTROL.search(line):
                    turn.lines[number], taken = _CONTROL.subn("", line)
                    num_control += taken
            if turn.reasoning:
                turn.reasoning = _CONTROL.sub("", turn.reasoning)
            finished = _turn(turn)
            if finished.utterance or finished.tool_calls or finished.reasoning:
                turns.append(finished)
        dialogue = Dialogue(name, tuple(turns), draft.tools)
        num_raw = sum(sum(len(line) + 1 for line in t.lines) - 1 for t in drafted if t.lines)
        return Record(
            where,
            dialogue,
            self._groups(entry, draft, dialogue),
            len(drafted),
            num_raw + num_control,
            num_control,
        )

    def _sessions(self, draft: Draft) -> Iterator[list[DraftTurn]]:
        """Cut a log by gaps in time, and what is longer than a session by its number of turns.

        The system text that a dialogue begins with begins each part, beside so many turns.
        """
        is_system = [turn.role == "system" for turn in draft.turns]
        num_system = is_system.index(False) if False in is_system else 0
        system, turns = draft.turns[:num_system], draft.turns[num_system:]
        starts = [0]
        if draft.is_log and self._data.session_gap_hours is not None:
            times = [time_of(turn.time) for turn in turns]
            gap = self._data.session_gap_hours * _SECONDS_PER_HOUR
            for number in range(1, len(turns)):
                before, now = times[number - 1], times[number]
                if before is not None and now is not None and now - before > gap:
                    starts.append(number)
        most = self._data.session_turns or max(1, len(turns))
        for start, stop in zip(starts, [*starts[1:], len(turns)], strict=True):
            for first in range(start, max(stop, start + 1), most):
                own = [replace(turn, lines=[*turn.lines]) for turn in system]
                yield [*own, *turns[first : min(first + most, stop)]]

    def _groups(self, entry: Any, draft: Draft, dialogue: Dialogue) -> tuple[str, ...]:
        """The group or groups that a dialogue belongs to; every dialogue must name one."""
        if self._data.group_by is None:
            return (f"tree {draft.tree}",) if draft.tree else ()
        if self._group is None:
            return dialogue.speakers
        value = search(self._group, entry, "data.group_by")
        values = value if isinstance(value, list) and value else [value]
        if not all(isinstance(v, str | int) and not isinstance(v, bool) for v in values):
            raise Invalid(
                "missing_group",
                f"{self._data.group_by!r} (data.group_by): wanted text or a list of texts, "
                f"found {kind(value)}",
            )
        return tuple(dict.fromkeys(checked(str(v), repr(self._data.group_by)) for v in values))


def _is_newest_first(turns: list[DraftTurn]) -> bool:
    """Tell whether all turns have times, of which none is later than the one before."""
    if len(turns) < 2 or turns[0].time is None or turns[-1].time is None:
        return False
    first, last = time_of(turns[0].time), time_of(turns[-1].time)
    if first is None or last is None or first <= last:
        return False
    times = [time_of(turn.time) for turn in turns]
    return all(a is not None and b is not None and a >= b for a, b in pairwise(times))


def _faulty(where: str, invalid: Invalid) -> Record:
    return Record(where, reason=invalid.reason, fault=str(invalid))


def _turn(turn: DraftTurn) -> Turn:
    """The messages of one speaker as lines, without white space around them or empty ones."""
    if len(turn.lines) == 1:  # as nearly all turns are
        text = turn.lines[0].strip()
    else:
        text = "\n".join(line for line in map(str.strip, turn.lines) if line)
    return Turn(
        turn.speaker,
        text,
        turn.role,
        turn.reasoning,
        turn.tool_calls,
        turn.tool_call_id,
        turn.weight,
    )
