"""How well a model predicts the turns that are only context: no responses, and no headline.

A model that is trained on the assistant's turns alone may come to predict a user's worse. Were both
averaged, that would hide what it learnt; so each role has a figure of its own, beside the headline.
"""

from __future__ import annotations

import math
from collections import Counter

from tuning.dialogue import Dialogue
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, sums
from tuning.scoring.perplexity import content_of
from tuning.tokens.template import NotEncodableError

PEOPLE = "people"
"""Who speaks, where a turn has no role."""


def measure_context_turns(subject: Subject) -> Scoring[Findings]:
    """Score every turn but a dialogue's first that is no response, after its history."""
    sequences: list[TokenSequence] = []
    speakers: list[str] = []
    num_bytes: Counter[str] = Counter()
    for dialogue in subject.dialogues:
        reading = subject.template.read(dialogue)
        for number in context_turns(dialogue):
            turn = dialogue.turns[number]
            try:
                sequences.append(content_of(reading.after(range(number), number)))
            except NotEncodableError:  # a chat template that does not write it as it is
                continue
            speakers.append(turn.role or PEOPLE)
            num_bytes[speakers[-1]] += len(turn.text.encode())
    bits: Counter[str] = Counter()
    for speaker, nats in zip(speakers, sums((yield sequences)).tolist(), strict=True):
        bits[speaker] += nats / math.log(2)
    return Findings(
        figures={
            f"bits_per_byte_context_{name}": bits[name] / num_bytes[name]
            for name in sorted(num_bytes)
        }
    )


def context_turns(dialogue: Dialogue) -> list[int]:
    """Return the turns behind the first that say something and are no responses."""
    responses = {*dialogue.responses}
    return [
        number
        for number, turn in enumerate(dialogue.turns)
        if number and number not in responses and turn.text
    ]
