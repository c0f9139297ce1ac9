"""A dialogue, and its one form on disk: a JSON object per line.

On disk a key is absent where it says nothing, so a conversation between people has ``speaker`` and
``utterance`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
LOSS_ON = frozenset({"auto", "all", "last"})
"""Words of ``loss_on`` that are nobody's name."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that an assistant calls."""

    name: str
    arguments: str
    """JSON text, as the model is to write it."""
    call_id: str = ""
    """Names the call in the tool's answer, where the data has it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's words before the next turn; several messages are its lines."""

    speaker: str
    utterance: str
    role: Role | None = None
    """None: a person among people."""
    reasoning: str = ""
    """An assistant's thoughts before its answer."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """The call that a tool answers."""
    weight: float = 1.0
    """The turn's share in the loss; 0 is context that is never trained."""
    is_cut: bool = False
    """Whether it goes on beyond what is scored, so that its end is not here; never on disk."""

    @property
    def text(self) -> str:
        """The words, and behind them each call as a line of JSON, where a template has no other."""
        if not self.tool_calls:
            return self.utterance
        calls = [
            f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}}}' for c in self.tool_calls
        ]
        return "\n".join([self.utterance, *calls] if self.utterance else calls)

    def saying(self, text: str) -> Turn:
        """Return a turn of the same speaker that says something else, and no more than that."""
        return Turn(self.speaker, text, self.role)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns in order. One speaker may hold consecutive turns; any number may take part."""

    dialogue_id: str
    turns: tuple[Turn, ...]
    tools: str = ""
    """The functions that an assistant may call: a JSON list, in the form of the data."""
    source: str = ""
    """The source that it is from, where there are several."""
    loss_on: str = ""
    """Which turns are trained, where its source says so."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Distinct speakers by order of first appearance: index 0 is ``<|speaker1|>``."""
        return tuple(dict.fromkeys(turn.speaker for turn in self.turns))

    @property
    def people(self) -> dict[str, int]:
        """Speakers who are no role, numbered from 0 by order of first appearance.

        A user with a name is one of several people.
        """
        named = (t.speaker for t in self.turns if t.role is None or t.speaker != t.role)
        return {name: index for index, name in enumerate(dict.fromkeys(named))}

    @property
    def responses(self) -> list[int]:
        """Indices of the turns that a model may be scored on: trained ones, but for the first."""
        return [index for index, turn in enumerate(self.turns) if index and turn.weight > 0]

    @property
    def num_characters(self) -> int:
        """Unicode code points in all utterances."""
        return sum(len(turn.utterance) for turn in self.turns)


def trained_turns(turns: Sequence[Turn], loss_on: str | Sequence[str]) -> list[bool]:
    """Say of each turn whether it is trained, and so scored.

    Whatever is asked for, what the data keeps out of training, a system text and a tool's answer
    are context.

    Args:
        turns: A dialogue's turns.
        loss_on: ``auto`` (the assistant's where turns have roles, else all), ``all``, ``last`` (of
            those that ``auto`` trains), the name of a speaker or role, or several of these.
    """
    wanted = {loss_on} if isinstance(loss_on, str) else set(loss_on)
    has_roles = any(turn.role for turn in turns)
    if "auto" in wanted:
        wanted.add("assistant" if has_roles else "all")
    answers = (n for n, turn in enumerate(turns) if turn.role == "assistant" or not has_roles)
    last = max(answers, default=-1)
    return [
        turn.weight > 0
        and turn.role not in ("system", "tool")
        and not wanted.isdisjoint(["all", turn.speaker, turn.role, *["last"] * (number == last)])
        for number, turn in enumerate(turns)
    ]


def to_line(dialogue: Dialogue) -> str:
    """Return one JSON object without a line end: keys in a fixed order, non-ASCII text as it is."""
    record: dict[str, Any] = {
        "dialogue_id": dialogue.dialogue_id,
        "turns": [_turn_record(turn) for turn in dialogue.turns],
    }
    beside = {"tools": dialogue.tools, "source": dialogue.source, "loss_on": dialogue.loss_on}
    record |= {key: value for key, value in beside.items() if value}
    return json.dumps(record, ensure_ascii=False)


def from_line(line: str | bytes) -> Dialogue:
    """Return the dialogue that ``to_line`` wrote; other keys beside it are passed over."""
    record = json.loads(line)
    turns = tuple(map(_turn, record["turns"]))
    beside = (record.get(key, "") for key in ("tools", "source", "loss_on"))
    return Dialogue(record["dialogue_id"], turns, *beside)


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """Yield the dialogues of a file with one ``to_line`` per line."""
    with path.open("rb") as file:
        yield from map(from_line, file)


def _turn_record(turn: Turn) -> dict[str, Any]:
    record: dict[str, Any] = {"speaker": turn.speaker, "utterance": turn.utterance}
    if turn.role is not None:
        record["role"] = turn.role
    if turn.reasoning:
        record["reasoning"] = turn.reasoning
    if turn.tool_calls:
        record["tool_calls"] = [
            {"name": call.name, "arguments": call.arguments}
            | ({"call_id": call.call_id} if call.call_id else {})
            for call in turn.tool_calls
        ]
    if turn.tool_call_id:
        record["tool_call_id"] = turn.tool_call_id
    if turn.weight != 1:
        record["weight"] = turn.weight
    return record


def _turn(record: dict[str, Any]) -> Turn:
    if len(record) == 2:  # as all turns of people are
        return Turn(record["speaker"], record["utterance"])
    calls = tuple(ToolCall(**call) for call in record.get("tool_calls", ()))
    return Turn(**(record | {"tool_calls": calls}))
