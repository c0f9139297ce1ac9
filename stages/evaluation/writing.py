"""What a model writes in places of the evaluation set where people wrote too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import Template
from stages.encoding.texts import token_texts
from stages.evaluation.decoding import GREEDY, Reply, Request, Sampling
from stages.evaluation.evaluation_set import text_sha256
from stages.evaluation.generation import context_ids, text_of
from stages.evaluation.measured import ScoredText, Written
from stages.evaluation.perplexity import last_turn
from stages.evaluation.places import Place, response_of
from stages.evaluation.scoring import Scoring


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


def people_as_seen(
    template: Template, dialogues: Sequence[Dialogue], places: Sequence[Place]
) -> Scoring[list[ScoredText]]:
    """What people said there, and how it surprises the model."""
    turns = [template.encode(dialogues[place.dialogue])[: place.turn + 1] for place in places]
    nll = yield [last_turn(template, some) for some in turns]
    return [
        scored_text(template, some[-1].content, scores[~np.isnan(scores)].tolist())
        for some, scores in zip(turns, nll, strict=True)
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
