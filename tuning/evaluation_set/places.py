"""Places of the evaluation set where models write, and what is said there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tuning.dialogue import Dialogue
from tuning.evaluation_set.text import text_sha256


@dataclass(frozen=True)
class Place:
    """A response of the evaluation set."""

    dialogue: int
    """Index of the dialogue in the evaluation set."""
    turn: int
    """Index of the response in its dialogue."""


@dataclass(frozen=True)
class Response:
    """A model's or a person's words in a place of the evaluation set."""

    dialogue: int
    """Index of the dialogue in the evaluation set."""
    text: str
    context: tuple[str, ...]
    """The texts of the turns before."""
    reference: str
    """A person's words in this place."""
    has_ended: bool = True
    """True if it ended with an end of turn."""
    has_tag: bool = False
    """True if it went on as another speaker."""


def choose_places(
    dialogues: Sequence[Dialogue], *, prompt_turns: int, num_places: int
) -> list[Place]:
    """Choose the earliest places at multiples of ``prompt_turns``; a hash decides among equals.

    Where that turn is no response, the next one is taken that is. A dialogue that is too short has
    a place at its last response.
    """
    places = [
        (turn, text_sha256([dialogue]), Place(index, turn))
        for index, dialogue in enumerate(dialogues)
        for turn in sorted(
            {
                response_near(dialogue, near)
                for near in range(
                    min(prompt_turns, len(dialogue.turns) - 1), len(dialogue.turns), prompt_turns
                )
            }
        )
    ]
    return [place for _, _, place in sorted(places, key=lambda one: one[:2])[:num_places]]


def choose_spread(
    dialogues: Sequence[Dialogue], possible: Sequence[Sequence[int]], num_places: int
) -> list[Place]:
    """Choose of each dialogue one of its possible turns, then of each another, by hashes.

    Turns of one dialogue are alike: the more dialogues have a share, the surer is a number.
    """
    places: list[tuple[int, str, int, int]] = []
    for index, (dialogue, turns) in enumerate(zip(dialogues, possible, strict=True)):
        text = text_sha256([dialogue])
        places += [(rank, text, index, turn) for rank, turn in enumerate(by_hash(turns, text))]
    return [Place(index, turn) for _, _, index, turn in sorted(places)[:num_places]]


def by_hash(turns: Sequence[int], text: str) -> list[int]:
    """Return the turns in an order that follows from a text and nothing else."""
    return sorted(turns, key=lambda turn: hashlib.sha256(f"{text}\x1f{turn}".encode()).digest())


def choose_call_places(dialogues: Sequence[Dialogue], *, num_places: int) -> list[Place]:
    """Choose places where the data's assistant calls tools, of as many dialogues as there are."""
    calls = [
        [turn for turn in dialogue.responses if dialogue.turns[turn].tool_calls]
        for dialogue in dialogues
    ]
    return choose_spread(dialogues, calls, num_places)


def response_near(dialogue: Dialogue, turn: int) -> int:
    """Return the first response at or behind a turn, or else the last."""
    return next((one for one in dialogue.responses if one >= turn), dialogue.responses[-1])


def people_in_places(dialogues: Sequence[Dialogue], places: Sequence[Place]) -> list[Response]:
    """Return people's own responses in these places."""
    found = []
    for place in places:
        turn = dialogues[place.dialogue].turns[place.turn]
        found.append(
            response_of(dialogues[place.dialogue], place, turn.text, has_ended=not turn.is_cut)
        )
    return found


def response_of(
    dialogue: Dialogue, place: Place, text: str, *, has_ended: bool = True, has_tag: bool = False
) -> Response:
    """Return a text as the response in a place, beside a person's words there."""
    return Response(
        dialogue=place.dialogue,
        text=text,
        context=tuple(turn.text for turn in dialogue.turns[: place.turn]),
        reference=dialogue.turns[place.turn].text,
        has_ended=has_ended,
        has_tag=has_tag,
    )
