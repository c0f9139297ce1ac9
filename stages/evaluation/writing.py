"""What both models write in places of the evaluation set where people wrote too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import Template
from stages.encoding.texts import token_texts
from stages.evaluation.decoding import GREEDY, Reply, Request, Sampling
from stages.evaluation.evaluation_set import text_sha256
from stages.evaluation.generation import context_ids, text_of
from stages.evaluation.perplexity import append_turn
from stages.evaluation.quality import Response
from stages.evaluation.report_page import ScoredText
from stages.evaluation.scoring import TokenSequence, token_nll


@dataclass(frozen=True)
class Place:
    """A response of the evaluation set."""

    dialogue: int
    """Index of the dialogue in the evaluation set."""
    turn: int
    """Index of the response in its dialogue."""


@dataclass(frozen=True)
class Written:
    """What one model wrote in the places, in their order."""

    greedy: list[Response]
    sampled: list[Response]
    """Place by place with the first seed, then with the next."""
    shown: list[ScoredText]
    """The greedy responses, token by token."""


def choose_places(
    dialogues: Sequence[Dialogue], *, prompt_turns: int, num_places: int
) -> list[Place]:
    """The earliest places at multiples of ``prompt_turns``, of equally early ones by a hash.

    A dialogue that is too short has one at its last turn.
    """
    places = [
        (turn, text_sha256([dialogue]), Place(index, turn))
        for index, dialogue in enumerate(dialogues)
        for turn in range(
            min(prompt_turns, len(dialogue.turns) - 1), len(dialogue.turns), prompt_turns
        )
    ]
    return [place for _, _, place in sorted(places, key=lambda one: one[:2])[:num_places]]


def plan_places(
    template: Template,
    dialogues: Sequence[Dialogue],
    places: Sequence[Place],
    samplings: Sequence[Sampling],
) -> list[Request]:
    """Each place once greedily, then each once with every one of the samplings."""
    contexts: dict[int, tuple[int, ...]] = {}
    for index in {place.dialogue for place in places}:
        last = max(place.turn for place in places if place.dialogue == index)
        contexts[index] = tuple(context_ids(template, dialogues[index], last))
    return [
        Request(
            context=contexts[place.dialogue],
            length=len(context_ids(template, dialogues[place.dialogue], place.turn)),
            speakers=(_speaker(dialogues[place.dialogue], place.turn),),
            sampling=sampling,
            name=text_sha256([dialogues[place.dialogue]]) + f" {place.turn}",
        )
        for sampling in (GREEDY, *samplings)
        for place in places
    ]


def written_in(
    template: Template,
    dialogues: Sequence[Dialogue],
    places: Sequence[Place],
    written: Sequence[Sequence[Reply]],
) -> Written:
    """What was written where ``plan_places`` asked for it, in its order."""
    replies = [turns[0] if turns else Reply((), (), "cut") for turns in written]
    responses = [
        response_of(
            dialogues[place.dialogue],
            place,
            text_of(template, reply),
            has_ended=reply.ending == "end_of_turn",
            has_tag=reply.ending == "tag",
        )
        for reply, place in zip(replies, cycle(places), strict=False)
    ]
    return Written(
        greedy=responses[: len(places)],
        sampled=responses[len(places) :],
        shown=[scored_text(template, one.ids, one.nats) for one in replies[: len(places)]],
    )


def people_in_places(dialogues: Sequence[Dialogue], places: Sequence[Place]) -> list[Response]:
    """What people said there."""
    return [
        response_of(
            dialogues[place.dialogue], place, dialogues[place.dialogue].turns[place.turn].utterance
        )
        for place in places
    ]


def response_of(
    dialogue: Dialogue, place: Place, text: str, *, has_ended: bool = True, has_tag: bool = False
) -> Response:
    """A response in its place, beside what a person said there."""
    return Response(
        dialogue=place.dialogue,
        text=text,
        context=tuple(turn.utterance for turn in dialogue.turns[: place.turn]),
        reference=dialogue.turns[place.turn].utterance,
        has_ended=has_ended,
        has_tag=has_tag,
    )


def people_as_seen(
    model: PreTrainedModel,
    template: Template,
    dialogues: Sequence[Dialogue],
    places: Sequence[Place],
    *,
    batch_size: int,
) -> list[ScoredText]:
    """What people said there, and how it surprises the model."""
    sequences: list[TokenSequence] = []
    contents: list[slice] = []
    for place in places:
        sequence = TokenSequence()
        for turn in template.encode(dialogues[place.dialogue])[: place.turn + 1]:
            content, _ = append_turn(sequence, turn, segment=1, first_position=len(sequence))
        sequences.append(sequence)
        contents.append(content)
    nll = token_nll(model, sequences, batch_size=batch_size)
    return [
        scored_text(template, sequence.input_ids[content], scores[content].tolist())
        for sequence, content, scores in zip(sequences, contents, nll, strict=True)
    ]


def scored_text(template: Template, ids: Sequence[int], nats: Sequence[float]) -> ScoredText:
    """Tokens as the texts that they stand for; those of one character are shown as one."""
    pieces: list[str] = []
    sums: list[float] = []
    start = 0
    for text, count in token_texts(template.tokenizer, ids):
        pieces.append(text)
        sums.append(sum(nats[start : start + count]))
        start += count
    return ScoredText(tuple(pieces), tuple(sums))


def _speaker(dialogue: Dialogue, turn: int) -> int:
    return dialogue.speakers.index(dialogue.turns[turn].speaker)
