"""A model's writing in places of the evaluation set where people wrote too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from transformers import PreTrainedModel

from tuning.dialogue import Dialogue
from tuning.evaluation_set.places import Place, response_of
from tuning.evaluation_set.text import text_sha256
from tuning.results.measured import ScoredText, Written
from tuning.results.samples import Sample
from tuning.run.params import ScoreParams
from tuning.scoring.calls import call_findings
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring
from tuning.scoring.perplexity import content_of
from tuning.tokens.template import Template
from tuning.tokens.texts import token_texts
from tuning.writing.continuing import plan_continuations, samples_of
from tuning.writing.decoding import (
    GREEDY,
    Reply,
    Request,
    Sampling,
    only_reply,
    write_replies,
)
from tuning.writing.packed_weights import pack_weights

ROWS_PER_DIALOGUE = 8
"""Rows that write beside each other, per row of ``score.batch_size``: one token of each fits
where a dialogue is scored."""


def write_out(
    model: PreTrainedModel, subject: Subject, settings: ScoreParams, *, seed: int
) -> tuple[Written, list[Sample], Findings]:
    """Let a model write in the places and go on with dialogues; from then on it can only infer.

    Returns:
        What it wrote in the places, the dialogues that it went on with, and its calls of tools.
    """
    template, dialogues, places = subject.template, subject.dialogues, subject.plan.places
    amounts = subject.amounts
    samplings = [
        Sampling(settings.temperature, settings.top_p, seed=seed + number)
        for number in range(amounts.num_samplings)
    ]
    in_places = plan_places(template, dialogues, places, samplings)
    call_places = subject.plan.call_places if template.calls else []
    in_calls = plan_places(template, dialogues, call_places, [])
    chats = plan_continuations(
        template,
        dialogues,
        num_samples=amounts.num_chats,
        prompt_turns=settings.prompt_turns,
        reply_turns=amounts.chat_turns,
        sampling=samplings[0],
    )
    # Not before: scoring would be a twelfth faster and take 2 GB more, between whose logits of many
    # sizes the heap keeps what oneDNN stores for each shape.
    pack_weights(model)
    # Chats take many passes of few rows: all that is written side by side fills them.
    replies = write_replies(
        model,
        template,
        [*in_places, *in_calls, *(chat.request for chat in chats)],
        max_new_tokens=settings.max_new_tokens,
        batch_size=ROWS_PER_DIALOGUE * settings.batch_size,
    )
    written = written_in(template, dialogues, places, replies[: len(in_places)])
    others = replies[len(in_places) :]
    calls = call_findings(subject, others[: len(in_calls)], written.greedy)
    return written, samples_of(template, chats, others[len(in_calls) :]), calls


def plan_places(
    template: Template,
    dialogues: Sequence[Dialogue],
    places: Sequence[Place],
    samplings: Sequence[Sampling],
) -> list[Request]:
    """Ask for each place once greedily, then for each once with every one of the samplings."""
    asked = {
        place: template.read(dialogues[place.dialogue]).after(range(place.turn), place.turn)
        for place in places
    }
    longest: dict[int, list[int]] = {}
    for place in sorted(places, key=lambda place: place.turn):
        longest[place.dialogue] = asked[place].context
    requests = []
    for sampling in (GREEDY, *samplings):
        for place in places:
            own, whole = asked[place].context, longest[place.dialogue]
            is_shared = whole[: len(own)] == own  # not where a template rewrites the past
            requests.append(
                Request(
                    context=tuple(whole if is_shared else own),
                    length=len(own),
                    tags=(tuple(asked[place].turn.tag),),
                    sampling=sampling,
                    name=text_sha256([dialogues[place.dialogue]]) + f" {place.turn}",
                )
            )
    return requests


def written_in(
    template: Template,
    dialogues: Sequence[Dialogue],
    places: Sequence[Place],
    written: Sequence[Sequence[Reply]],
) -> Written:
    """Gather the replies to the requests of ``plan_places``, in their order."""
    replies = [*map(only_reply, written)]
    responses = [
        response_of(
            dialogues[place.dialogue],
            place,
            template.text_of(reply.ids),
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
    """Find how people's responses in these places surprise the model."""
    found = [
        template.read(dialogues[place.dialogue]).after(range(place.turn), place.turn)
        for place in places
    ]
    nll = yield [content_of(place) for place in found]
    return [
        scored_text(template, place.turn.content, scores[~np.isnan(scores)].tolist())
        for place, scores in zip(found, nll, strict=True)
    ]


def scored_text(template: Template, ids: Sequence[int], nats: Sequence[float]) -> ScoredText:
    """Return tokens as the texts that they stand for; those of one character are one part."""
    parts: list[str] = []
    sums: list[float] = []
    start = 0
    for text, count in token_texts(template.tokenizer, ids):
        parts.append(text)
        sums.append(sum(nats[start : start + count]))
        start += count
    return ScoredText(tuple(parts), tuple(sums))
