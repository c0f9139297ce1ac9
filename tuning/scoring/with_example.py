"""The base model given one training dialogue as an example: what a prompt does without training."""

from __future__ import annotations

from dataclasses import replace

from tuning.dialogue import Dialogue
from tuning.results.response_scores import bits_per_byte
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring
from tuning.scoring.perplexity import score_responses
from tuning.tokens.template import NotEncodableError, num_system_turns

FIGURE = "bits_per_byte_with_example"
NOT_READ = "example_not_read"


def measure_with_example(subject: Subject) -> Scoring[Findings]:
    """Score every response behind the example and its history, where there is an example.

    Where the template does not take one dialogue behind another, or both are more than a token of
    the model sees, there is no figure, but the reason.
    """
    if subject.example is None:
        yield []
        return Findings()
    joined = [behind_example(subject.example, dialogue) for dialogue in subject.dialogues]
    scoring = score_responses(subject.template, joined)
    try:
        sequences = next(scoring)
    except NotEncodableError as error:
        yield []
        return Findings(figures={NOT_READ: f"the template takes no example: {error}"})
    if max(len(one.ids) for one in sequences) > subject.num_visible:
        yield []
        return Findings(figures={NOT_READ: "example and dialogue are more than the model sees"})
    nll = yield sequences
    try:
        scoring.send(nll)
    except StopIteration as end:
        scores = end.value
    return Findings(figures={FIGURE: bits_per_byte(scores.content_nll, scores.num_bytes)})


def behind_example(example: Dialogue, dialogue: Dialogue) -> Dialogue:
    """Return a dialogue whose system text is followed by an example, and then by its own turns.

    The example has the dialogue's speakers, by their order, and no system text of its own; where
    it has roles, it ends with an assistant's turn. The same turns are responses as before.
    """
    names = dict(zip(example.people, dialogue.people, strict=False))
    shown = [
        replace(turn, speaker=names.get(turn.speaker, turn.speaker), weight=0.0)
        for turn in example.turns
        if turn.role != "system"
    ]
    while shown and shown[-1].role not in (None, "assistant"):
        shown.pop()
    first, *rest = dialogue.turns
    own = [replace(first, weight=0.0), *rest]  # which was no response, as nothing was before it
    head = num_system_turns(own)
    return replace(dialogue, turns=(*own[:head], *shown, *own[head:]))
