"""Private data of dialogues: found by the workers, listed and maybe replaced as files are written.

A dialogue's side, order and duplicates follow from its text as it came, whatever is replaced: so
``data.redact`` moves no dialogue. Its findings travel beside its line, in a form of their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from phonenumbers import SUPPORTED_REGIONS

from tuning.corpus.private_forms import KINDS, Kind, Span
from tuning.corpus.private_spans import find, may_hold_any
from tuning.dialogue import Dialogue, Turn, from_line, to_line
from tuning.run.errors import UserError
from tuning.run.params import Redact

NO_TURN = -1
TURNS_AT_ONCE = 32
"""Turns that are looked through together for the least that a finding needs."""

_ID = re.compile(r"(?=[^A-Fa-f]*[A-Fa-f])[0-9A-Fa-f-]*|(?=[^A-Za-z_]*[A-Za-z_])\w*")
"""Names in letters and digits, such as a UUID: most names, and none of them an address."""

_NAMES: dict[Kind, tuple[str, str]] = {
    "email": ("e-mail address", "e-mail addresses"),
    "phone": ("phone number", "phone numbers"),
    "card": ("card number", "card numbers"),
    "iban": ("bank account", "bank accounts"),
    "ip": ("IP address", "IP addresses"),
    "key": ("key or password", "keys or passwords"),
}
_PLACEHOLDER = re.compile(rf"<({'|'.join(kind.upper() for kind in KINDS)})_(\d{{1,9}})>")


@dataclass(frozen=True, slots=True)
class Finding:
    """Private data at one place of a dialogue."""

    turn: int
    """Counted from 0; ``NO_TURN`` for the dialogue's tools."""
    field: str
    """``utterance``, ``reasoning`` or ``call 1`` (the arguments of the first call); ``tools``; or
    ``speaker``, for this turn and all others of that name."""
    start: int
    end: int
    """Code points of that text: ``text[start:end]``."""
    kind: Kind
    number: int
    """From 1 within its kind and dialogue; equal values have one number."""

    @property
    def placeholder(self) -> str:
        """What stands in its place once it is replaced."""
        return f"<{self.kind.upper()}_{self.number}>"


def check_region(region: str | None) -> None:
    """Raise ``UserError`` if there are no phone numbers of a region."""
    if region is not None and region not in SUPPORTED_REGIONS:
        raise UserError(
            f"data.phone_region: found {region!r}, which is no region; wanted two letters such as "
            "US, GB (the United Kingdom) or DE, or null."
        )


def find_in(dialogue: Dialogue, region: str | None) -> list[Finding]:
    """Find the private data of a dialogue, turn by turn; a name only where it speaks first.

    Numbers begin behind those of placeholders that the text has already.
    """
    places = list(_places(dialogue, region))
    if not places:
        return []
    numbers: dict[tuple[Kind, str], int] = {}
    last = _last_placeholders(dialogue)
    findings: list[Finding] = []
    for turn, field, span in places:
        key = (span.kind, span.value)
        if key not in numbers:
            last[span.kind] += 1
            numbers[key] = last[span.kind]
        findings.append(Finding(turn, field, span.start, span.end, span.kind, numbers[key]))
    return findings


def _places(dialogue: Dialogue, region: str | None) -> Iterator[tuple[int, str, Span]]:
    """Yield each finding's turn and field; several turns at once are seen to hold none."""
    turns = dialogue.turns
    names = {turn.speaker for turn in turns}
    named = {name: spans for name in names if (spans := _find_in_name(name, region))}
    for begin in range(0, len(turns), TURNS_AT_ONCE):
        some = turns[begin : begin + TURNS_AT_ONCE]
        may = may_hold_any("\n".join([text for turn in some for _, text in _texts(turn)]))
        if may or named:
            for number, turn in enumerate(some, start=begin):
                for span in named.pop(turn.speaker, ()):
                    yield number, "speaker", span
                for field, text in _texts(turn) if may else ():
                    for span in find(text, region):
                        yield number, field, span
    if dialogue.tools and may_hold_any(dialogue.tools):
        for span in find(dialogue.tools, region):
            yield NO_TURN, "tools", span


def _texts(turn: Turn) -> list[tuple[str, str]]:
    """Return the texts of a turn, by field, in the order of reading."""
    if not turn.reasoning and not turn.tool_calls:  # as nearly all turns are
        return [("utterance", turn.utterance)]
    calls = enumerate(turn.tool_calls, start=1)
    return [
        *([("reasoning", turn.reasoning)] if turn.reasoning else []),
        ("utterance", turn.utterance),
        *((f"call {number}", call.arguments) for number, call in calls),
    ]


@lru_cache(maxsize=2**14)
def _find_in_name(name: str, region: str | None) -> list[Span]:
    """Find the private data of a name; most come again, and are words or ids."""
    return [] if _ID.fullmatch(name) else find(name, region)


def _last_placeholders(dialogue: Dialogue) -> Counter[str]:
    """Return the highest number of each kind's placeholders in the text as it came."""
    last: Counter[str] = Counter()
    texts = (text for turn in dialogue.turns for _, text in _texts(turn))
    for text in (*dialogue.speakers, *texts, dialogue.tools):
        for name, number in _PLACEHOLDER.findall(text) if "<" in text else ():
            last[name.lower()] = max(last[name.lower()], int(number))
    return last


def has_any(dialogue: Dialogue, region: str | None) -> bool:
    """Tell whether a dialogue holds private data, or placeholders in the place of some."""
    return bool(find_in(dialogue, region) or _last_placeholders(dialogue))


def replace_in(dialogue: Dialogue, findings: Iterable[Finding]) -> Dialogue:
    """Put a placeholder such as ``<EMAIL_1>`` in the place of each finding."""
    names: dict[str, str] = {}
    texts: dict[tuple[int, str], str] = {}
    for (number, field), group in groupby(findings, lambda f: (f.turn, f.field)):
        text = _text(dialogue, number, field)
        if field == "speaker":
            names[text] = _replaced(text, group)
        else:
            texts[number, field] = _replaced(text, group)
    turns = (
        replace(
            turn,
            speaker=names.get(turn.speaker, turn.speaker),
            utterance=texts.get((number, "utterance"), turn.utterance),
            reasoning=texts.get((number, "reasoning"), turn.reasoning),
            tool_calls=tuple(
                replace(call, arguments=_as_json(texts.get((number, f"call {n}"), call.arguments)))
                for n, call in enumerate(turn.tool_calls, start=1)
            ),
        )
        for number, turn in enumerate(dialogue.turns)
    )
    tools = _as_json(texts.get((NO_TURN, "tools"), dialogue.tools))
    return replace(dialogue, turns=tuple(turns), tools=tools)


def redacted(text: str, region: str | None) -> str:
    """Return a text that is no dialogue with placeholders, as for ``find_in``."""
    [turn] = replace_in(only := _only(text), find_in(only, region)).turns
    return turn.utterance


def _only(text: str) -> Dialogue:
    return Dialogue("", (Turn("", text.replace("\0", " ")),))


def _text(dialogue: Dialogue, number: int, field: str) -> str:
    """Return the text that a finding is in."""
    if number == NO_TURN:
        return dialogue.tools
    turn = dialogue.turns[number]
    return turn.speaker if field == "speaker" else dict(_texts(turn))[field]


def _as_json(arguments: str) -> str:
    """Quote the placeholders of numbers in a JSON text, where they would make it none."""
    if _PLACEHOLDER.search(arguments):
        quoted = re.sub(rf'(?<!["\w]){_PLACEHOLDER.pattern}(?!["\w])', r'"<\1_\2>"', arguments)
        try:
            json.loads(arguments)
        except ValueError:
            return quoted
    return arguments


def _replaced(text: str, findings: Iterable[Finding]) -> str:
    parts: list[str] = []
    end = 0
    for finding in findings:
        parts += [text[end : finding.start], finding.placeholder]
        end = finding.end
    return "".join([*parts, text[end:]])


def dump(findings: Iterable[Finding]) -> str:
    """Write findings as text for ``load``; none are the empty text."""
    rows = [astuple(finding) for finding in findings]
    return json.dumps(rows) if rows else ""


def load(dumped: str) -> list[Finding]:
    """Read what ``dump`` wrote."""
    return [Finding(*row) for row in json.loads(dumped)] if dumped else []


class PrivateData:
    """Lists what was found in the dialogues that are kept, and replaces it where that is asked.

    The list has a line for each finding: its dialogue, turn (from 1; 0 for the tools), and text;
    kind, place and placeholder; and its first two characters, for lists are passed on. Places are
    those of the written text: the dialogue's own, or with placeholders in it.
    """

    def __init__(self, path: Path, redact: Redact) -> None:
        """Begin a list, which is a file unless nothing is looked for."""
        self._replaces = redact == "replace"
        self._file = None if redact == "none" else path.open("wb")
        self._num_dialogues = 0
        self._num_found: Counter[Kind] = Counter()
        self._num_replaced = 0
        self._num_written = 0

    def __enter__(self) -> Self:
        """The list."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def written(self, line: bytes, dumped: str, *, is_kept: bool) -> bytes:
        """Return a dialogue's line as it is to be written; if it is kept, list its findings."""
        if not dumped:
            return line
        dialogue, findings = from_line(line), load(dumped)
        if is_kept:
            self._list(dialogue, findings)
        if not self._replaces:
            return line
        return f"{to_line(replace_in(dialogue, findings))}\n".encode()

    def _list(self, dialogue: Dialogue, findings: list[Finding]) -> None:
        assert self._file is not None
        self._num_dialogues += 1
        place, shift = (-1, ""), 0
        for finding in findings:
            text = _text(dialogue, finding.turn, finding.field)
            if place != (finding.turn, finding.field):
                place, shift = (finding.turn, finding.field), 0
            start, end = finding.start + shift, finding.end + shift
            if self._replaces:
                end = start + len(finding.placeholder)
                shift = end - finding.end
                if finding.field == "utterance":
                    self._num_replaced += finding.end - finding.start
                    self._num_written += len(finding.placeholder)
            self._num_found[finding.kind] += 1
            record = {
                "dialogue_id": dialogue.dialogue_id,
                "turn": finding.turn + 1,
                "in": finding.field,
                "kind": finding.kind,
                "start": start,
                "end": end,
                "placeholder": finding.placeholder,
                "begins": text[finding.start : finding.start + 2],
            }
            self._file.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())

    def ledger(self) -> dict[str, dict[str, int | dict[str, int]]]:
        """Count the findings by kind and the dialogues that have any; nothing if none was sought.

        The ledger's ``num_characters`` are of the text as it came: what is written has
        ``num_characters_replaced`` fewer and ``num_characters_of_placeholders`` more.
        """
        if self._file is None:
            return {}
        return {
            "private_data": {
                "num_dialogues": self._num_dialogues,
                "num_found": {kind: self._num_found[kind] for kind in KINDS},
                "num_characters_replaced": self._num_replaced,
                "num_characters_of_placeholders": self._num_written,
            }
        }


def summary(ledger: Mapping[str, Any], path: Path, redact: Redact) -> str:
    """Say in a line what was found and where it is listed; nothing if there was nothing."""
    counts = ledger.get("private_data", {"num_dialogues": 0})
    if not (num_dialogues := counts["num_dialogues"]):
        return ""
    found = ", ".join(
        f"{num:,} {_NAMES[kind][num > 1]}" for kind in KINDS if (num := counts["num_found"][kind])
    )
    dialogues = "1 dialogue" if num_dialogues == 1 else f"{num_dialogues:,} dialogues"
    ends = (
        "replaced by placeholders" if redact == "replace" else "data.redact: replace takes them out"
    )
    return f"private data: {found} in {dialogues} ({path}; {ends})"
