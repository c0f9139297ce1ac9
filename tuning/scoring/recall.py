"""Recall: does a model still know, d turns later, what was said?

One speaker states a fact, d turns of a real dialogue follow, the other asks for it, and the first
begins to answer::

    A: My dog is called Biscuit.
    ...                                    (d turns)
    B: What is your dog called?
    A: My dog is called [Biscuit | Rocky | Luna | ...]

The model is right if, of ten values of one type, the fact makes the true one gain most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuning.dialogue import Dialogue, Role, Turn
from tuning.evaluation_set.text import text_sha256
from tuning.results.curves import Curve, curve_of
from tuning.results.dialogue_table import FloatArray, IntArray, sum_per_dialogue
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, sums
from tuning.tokens.template import Template, TurnInPlace
from tuning.tokens.texts import encode_behind


@dataclass(frozen=True)
class FactType:
    """A kind of fact: ``{answer} {value}.`` is said, ``question`` asks for the value."""

    answer: str
    question: str
    words: str
    """Ten values, separated by spaces."""

    @property
    def values(self) -> tuple[str, ...]:
        """The ten values."""
        return tuple(self.words.split())


FACT_TYPES = (
    FactType(
        "My dog is called",
        "What is your dog called?",
        "Biscuit Rocky Luna Max Bella Charlie Daisy Cooper Milo Buddy",
    ),
    FactType(
        "I grew up in",
        "Where did you grow up?",
        "Boston Denver Seattle Chicago Dallas Phoenix Portland Atlanta Detroit Houston",
    ),
    FactType(
        "My favorite color is",
        "What is your favorite color?",
        "red blue green yellow purple orange pink black white brown",
    ),
    FactType(
        "I work as a",
        "What do you do for a living?",
        "nurse teacher plumber lawyer barber baker dentist farmer pilot waiter",
    ),
    FactType(
        "I play the",
        "Which instrument do you play?",
        "piano guitar violin drums flute cello trumpet harp saxophone clarinet",
    ),
)

NUM_VALUES = 10
"""Values of every type; chance is 1 in so many."""

DISTANCES = (0, 2, 4, 8)
"""Turns between fact and question; even, so that the two speakers go on taking turns."""

ITEMS_PER_FILLER = 2
"""Items of one type with the same turns in between; they share the scores without the fact."""

FIRST_FILLER_TURN = 2
"""Index of the first turn of a dialogue that can stand between: after the greetings."""

MAX_FILLER_BYTES = 800
"""Most bytes of the eight turns between, which bounds the cost."""


@dataclass(frozen=True)
class RecallItems:
    """Results per question (I of them)."""

    dialogue: IntArray
    """``[I]`` Index in the evaluation set of the dialogue that the turns between are from."""
    distance: IntArray
    """``[I]`` Turns between fact and question."""
    hits: FloatArray
    """``[I]`` 1 if the planted value gains most, shared among ties."""


def measure_recall(subject: Subject) -> Scoring[Findings]:
    """Ask for planted facts; right answers belong to the dialogue between fact and question."""
    num_dialogues = len(subject.dialogues)
    items = yield from score_recall(
        subject.template, subject.dialogues, facts_per_type=subject.amounts.facts_per_type
    )
    hits = sum_per_dialogue(items.dialogue, items.hits, num_dialogues)
    return Findings(
        columns={
            "num_recall_items": np.bincount(items.dialogue, minlength=num_dialogues),
            f"{subject.name}_recall_hits": hits,
        },
        curves={"distance": recall_by_distance(items, num_dialogues)},
    )


def score_recall(
    template: Template, dialogues: Sequence[Dialogue], *, facts_per_type: int
) -> Scoring[RecallItems]:
    """Ask for every planted fact at every distance; no items if no dialogue can stand between.

    The answer is the argmax over values v of ``log p(v | dialogue with the fact) − log p(v | the
    same without the fact's turn)``, so that what is likely anyway gains nothing. v is scored whole.
    """
    fillers = fillers_of(dialogues)
    has_roles = [any(turn.role for turn in dialogue.turns) for dialogue in dialogues]
    sequences: list[TokenSequence] = []  # NUM_VALUES in a row are one question's

    def add(place: TurnInPlace, values: Sequence[Sequence[int]]) -> int:
        before = [*place.prompt, *place.turn.content]
        sequences.extend(TokenSequence.after(before, value) for value in values)
        return len(sequences) // NUM_VALUES - 1

    items: list[tuple[int, int, int, int, int]] = []
    for number, kind in enumerate(FACT_TYPES if fillers else ()):
        texts = [f" {value}" for value in kind.values]
        values = encode_behind(template.tokenizer, kind.answer, texts)
        chosen = range(0, len(kind.values), -(-len(kind.values) // facts_per_type))
        fillers_per_type = -(-len(chosen) // ITEMS_PER_FILLER)
        for place, value in enumerate(chosen):
            filler = (number * fillers_per_type + place // ITEMS_PER_FILLER) % len(fillers)
            index, between = fillers[filler]
            for distance in DISTANCES:
                planted = planted_dialogue(
                    kind, kind.values[value], between[:distance], has_roles=has_roles[index]
                )
                reading, last = template.read(planted), len(planted.turns) - 1
                num_planted = last - distance - 1  # the fact, and what asked an assistant for it
                fact, no_fact = (
                    add(reading.after(range(first, last), last), values)
                    for first in (0, num_planted)
                )
                items.append((index, distance, value, fact, no_fact))

    nll = yield sequences
    values_nll = sums(nll).reshape(-1, NUM_VALUES)
    hits: list[float] = []
    for _, _, value, fact, no_fact in items:
        gain = values_nll[no_fact] - values_nll[fact]
        best = gain == gain.max()
        hits.append(best[value] / best.sum())
    return RecallItems(
        dialogue=np.array([item[0] for item in items], dtype=np.int64),
        distance=np.array([item[1] for item in items], dtype=np.int64),
        hits=np.array(hits, dtype=np.float64),
    )


def recall_by_distance(items: RecallItems, num_dialogues: int) -> Curve:
    """Share of questions answered rightly at each distance; chance is 0.1."""
    return curve_of(
        items.distance, items.dialogue, items.hits, np.ones_like(items.dialogue), num_dialogues
    )


def fillers_of(dialogues: Sequence[Dialogue]) -> list[tuple[int, tuple[str, ...]]]:
    """Find turns that can stand between: dialogue indices with eight texts, in a hash's order.

    Two speakers who take turns (a user first, for the assistant says the fact), not too long, and
    no word of theirs is a value that is asked for.
    """
    values = {value.casefold() for kind in FACT_TYPES for value in kind.values}
    found: list[tuple[str, int, tuple[str, ...]]] = []
    for index, dialogue in enumerate(dialogues):
        first = next(
            (
                number
                for number, turn in enumerate(dialogue.turns)
                if number >= FIRST_FILLER_TURN and turn.role in (None, "user")
            ),
            len(dialogue.turns),
        )
        turns = dialogue.turns[first : first + DISTANCES[-1]]
        texts = tuple(turn.text for turn in turns)
        speakers = [turn.speaker for turn in turns]
        if (
            len(turns) == DISTANCES[-1]
            and speakers == speakers[:2] * (DISTANCES[-1] // 2)
            and speakers[0] != speakers[1]
            and {turn.role for turn in turns} <= {None, "user", "assistant"}
            and sum(len(text.encode()) for text in texts) <= MAX_FILLER_BYTES
            and values.isdisjoint(re.findall(r"\w+", " ".join(texts).casefold()))
        ):
            found.append((text_sha256([dialogue]), index, texts))
    return [(index, texts) for _, index, texts in sorted(found)]


def planted_dialogue(
    kind: FactType, value: str, between: Sequence[str], *, has_roles: bool = False
) -> Dialogue:
    """Fact, turns between, question, and the beginning of the answer.

    Two people take turns; or a user asks the assistant, at the beginning, too.
    """
    fact = f"{kind.answer} {value}."
    texts = (fact, *between, kind.question, kind.answer)
    if not has_roles:
        return Dialogue("", tuple(Turn("AB"[i % 2], text) for i, text in enumerate(texts)))
    roles: tuple[Role, Role] = ("user", "assistant")
    texts = (kind.question, *texts)
    return Dialogue(
        "", tuple(Turn(roles[i % 2], text, roles[i % 2]) for i, text in enumerate(texts))
    )
