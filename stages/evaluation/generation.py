"""Dialogues that a model continues with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue, Turn
from stages.encoding.speakers import Template
from stages.evaluation.decoding import Reply, Request, Sampling, write_replies
from stages.evaluation.samples import Sample


@dataclass(frozen=True)
class Continuation:
    """A dialogue that a model is to go on with."""

    dialogue: Dialogue
    prompt_turns: int
    """Turns that the model gets to see."""
    speakers: tuple[str, ...]
    """Who is to speak then, turn by turn."""
    request: Request


def continue_dialogues(
    model: PreTrainedModel,
    template: Template,
    dialogues: Sequence[Dialogue],
    *,
    num_samples: int,
    prompt_turns: int,
    reply_turns: int,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling,
) -> list[Sample]:
    """Let the model write what ``plan_continuations`` plans."""
    plans = plan_continuations(
        template,
        dialogues,
        num_samples=num_samples,
        prompt_turns=prompt_turns,
        reply_turns=reply_turns,
        sampling=sampling,
    )
    requests = [plan.request for plan in plans]
    written = write_replies(
        model, template, requests, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return samples_of(template, plans, written)


def plan_continuations(
    template: Template,
    dialogues: Sequence[Dialogue],
    *,
    num_samples: int,
    prompt_turns: int,
    reply_turns: int,
    sampling: Sampling,
) -> list[Continuation]:
    """The next turns of the first dialogues, if it can be those long enough.

    Speakers alternate as they did in the human dialogue; behind its end, the last two take turns. A
    dialogue with no more turns than the prompt has is continued in place of its last one; one of a
    single turn has nothing to continue and is left out.
    """
    answered = [one for one in dialogues if len(one.turns) > 1]
    chosen = sorted(answered, key=lambda one: len(one.turns) <= prompt_turns)[:num_samples]
    plans = []
    for dialogue in chosen:
        first = min(prompt_turns, len(dialogue.turns) - 1)
        names = _next_speakers(dialogue, first, reply_turns)
        context = context_ids(template, dialogue, first)
        request = Request(
            context=tuple(context),
            length=len(context),
            speakers=tuple(dialogue.speakers.index(name) for name in names),
            sampling=sampling,
            name=dialogue.dialogue_id,
        )
        plans.append(Continuation(dialogue, first, tuple(names), request))
    return plans


def samples_of(
    template: Template, plans: Sequence[Continuation], written: Sequence[Sequence[Reply]]
) -> list[Sample]:
    """What was written, beside what people said."""
    return [
        Sample(
            plan.dialogue.dialogue_id,
            plan.dialogue.turns[: plan.prompt_turns],
            tuple(
                Turn(name, text_of(template, reply))
                for name, reply in zip(plan.speakers, replies, strict=False)
            ),
            plan.dialogue.turns[plan.prompt_turns : plan.prompt_turns + len(plan.speakers)],
        )
        for plan, replies in zip(plans, written, strict=True)
    ]


def context_ids(template: Template, dialogue: Dialogue, num_turns: int) -> list[int]:
    """The first turns as the model reads them, before the next speaker's tag."""
    turns = template.encode(dialogue)[:num_turns]
    return [*template.start, *(token for turn in turns for token in turn.ids)]


def text_of(template: Template, reply: Reply) -> str:
    """What a reply says."""
    return str(template.tokenizer.decode(list(reply.ids))).strip()


def _next_speakers(dialogue: Dialogue, first: int, count: int) -> list[str]:
    names = [turn.speaker for turn in dialogue.turns]
    while len(names) < first + count:
        others = [name for name in names[::-1] if name != names[-1]]
        names.append(others[0] if others else names[-1])
    return names[first : first + count]
