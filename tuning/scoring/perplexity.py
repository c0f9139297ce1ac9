"""Perplexity and bits per byte: how well a model predicts the responses of the evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tuning.dialogue import Dialogue
from tuning.results.dialogue_table import (
    FloatArray,
    IntArray,
    count_per_dialogue,
    sum_per_dialogue,
)
from tuning.results.response_scores import ResponseScores, by_speaker, by_turn, make_scores
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, both, sums
from tuning.tokens.template import Template, TurnInPlace


def measure_responses(subject: Subject) -> Scoring[Findings]:
    """Score every response after its history, and alone after its own speaker's tag."""
    scores, alone = yield from both(
        score_responses(subject.template, subject.dialogues),
        score_responses(subject.template, subject.dialogues, with_history=False),
    )
    return response_findings(subject.name, scores, alone, len(subject.dialogues))


def response_findings(
    name: str, scores: ResponseScores, alone: ResponseScores | None, num_dialogues: int
) -> Findings:
    """Sum a model's nats of the responses, and the counts that divide them, per dialogue.

    Args:
        name: Begins the names of the model's own columns; the others are the text's.
        scores: Scores of the responses after their history.
        alone: Scores of the same responses without history, where they were taken.
        num_dialogues: Dialogues in the evaluation set.
    """
    assert alone is None or (scores.num_bytes == alone.num_bytes).all()

    def total(values: FloatArray) -> FloatArray:
        return sum_per_dialogue(scores.dialogue, values, num_dialogues)

    def count(values: IntArray) -> IntArray:
        return count_per_dialogue(scores.dialogue, values, num_dialogues)

    return Findings(
        columns={
            "num_responses": np.bincount(scores.dialogue, minlength=num_dialogues),
            "num_ends": count(scores.num_ends),
            "num_words": count(scores.num_words),
            "num_bytes": count(scores.num_bytes),
            f"{name}_content_nll": total(scores.content_nll),
            f"{name}_end_nll": total(scores.end_nll),
            f"{name}_num_tokens": count(scores.num_tokens),
            **({} if alone is None else {f"{name}_alone_nll": total(alone.content_nll)}),
        },
        figures={
            "num_target_tokens": int(scores.num_tokens.sum() + scores.num_ends.sum()),
            **{
                f"bits_per_byte_{name}": bits
                for name, bits in by_speaker(scores, num_dialogues).items()
            },
        },
        curves={"turn": by_turn(scores, num_dialogues)},
    )


def score_responses(
    template: Template, dialogues: Sequence[Dialogue], *, with_history: bool = True
) -> Scoring[ResponseScores]:
    """Score every response once, in one causal pass as long as the history stays as it was.

    Of a response that is cut, the end is not scored.

    Without history each response stands alone after its own speaker's tag.
    """
    sequences: list[TokenSequence] = []
    spans: list[tuple[int, slice, slice]] = []
    lasts: dict[int, TokenSequence] = {}  # of contents that are joined with their end, by response
    num_tokens: list[int] = []
    for dialogue in dialogues:
        reading = template.read(dialogue)
        before: list[int] | None = None  # what the last sequence has of this dialogue
        for number in dialogue.responses:
            place = reading.after(range(number) if with_history else (), number)
            turn, prompt = place.turn, place.prompt
            if before is None or not with_history or prompt[: len(before)] != before:
                sequences.append(TokenSequence())
                before = sequences[-1].ids
            sequence = sequences[-1]
            is_cut = dialogue.turns[number].is_cut
            is_joined = turn.joined is not None and not is_cut
            own = turn.content[:-1] if is_joined else turn.content
            sequence.append(prompt[len(sequence.ids) :], scored=False)
            content = sequence.append(own)
            end = sequence.append([] if is_cut else turn.ids[len(turn.tag) + len(own) :])
            if is_joined:
                last = TokenSequence.after(sequence.ids[: end.start], turn.content[-1:])
                lasts[len(spans)] = replace(last, or_last=turn.joined)
            spans.append((len(sequences) - 1, content, end))
            num_tokens.append(len(turn.content))
    nll = yield [*sequences, *lasts.values()]
    last_nll = np.zeros(len(spans))
    last_nll[list(lasts)] = sums(nll[len(sequences) :])
    return make_scores(
        dialogues,
        content_nll=[nll[number][content].sum() for number, content, _ in spans] + last_nll,
        end_nll=[nll[number][end].sum() for number, _, end in spans] - last_nll,
        num_tokens=num_tokens,
    )


def content_of(place: TurnInPlace) -> TokenSequence:
    """Return a turn's content, to be scored behind what a model reads before it."""
    sequence = TokenSequence.after(place.prompt, place.turn.content)
    return replace(sequence, or_last=place.turn.joined)
