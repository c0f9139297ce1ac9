"""Dialogues that a model continues with itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuning.dialogue import Dialogue, Turn
from tuning.evaluation_set.places import response_near
from tuning.results.samples import Sample
from tuning.tokens.template import Template
from tuning.writing.decoding import Reply, Request, Sampling


@dataclass(frozen=True)
class Continuation:
    """A dialogue that a model is to go on with."""

    dialogue: Dialogue
    prompt_turns: int
    """Turns that the model gets to see."""
    speakers: tuple[str, ...]
    """The speakers of the turns after those, one by one."""
    request: Request


def plan_continuations(
    template: Template,
    dialogues: Sequence[Dialogue],
    *,
    num_samples: int,
    prompt_turns: int,
    reply_turns: int,
    sampling: Sampling,
) -> list[Continuation]:
    """Ask for the next turns of the first dialogues, of those long enough where there are such.

    Speakers alternate as they did in the human dialogue; behind its end, the last two take turns. A
    dialogue with no more turns than the prompt has is continued in place of its last one; one of a
    single turn has nothing to continue and is left out. Where there are roles, the assistant gives
    one answer: nobody wants the model to ask, too.
    """
    answered = [one for one in dialogues if one.responses]
    chosen = sorted(answered, key=lambda one: len(one.turns) <= prompt_turns)[:num_samples]
    plans = []
    for dialogue in chosen:
        first = response_near(dialogue, prompt_turns)
        has_roles = any(turn.role for turn in dialogue.turns)
        names = _next_speakers(dialogue, first, 1 if has_roles else reply_turns)
        reading = template.read(dialogue)
        numbers = {turn.speaker: number for number, turn in enumerate(dialogue.turns)}
        place = reading.after(range(first), first)
        tags = [place.turn.tag]
        tags += (reading.after((), numbers[name]).turn.tag for name in names[1:])
        request = Request(
            context=tuple(place.context),
            length=len(place.context),
            tags=tuple(map(tuple, tags)),
            sampling=sampling,
            name=dialogue.dialogue_id,
        )
        plans.append(Continuation(dialogue, first, tuple(names), request))
    return plans


def samples_of(
    template: Template, plans: Sequence[Continuation], written: Sequence[Sequence[Reply]]
) -> list[Sample]:
    """Put what was written beside what people said."""
    return [
        Sample(
            plan.dialogue.dialogue_id,
            plan.dialogue.turns[: plan.prompt_turns],
            tuple(
                Turn(name, template.text_of(reply.ids))
                for name, reply in zip(plan.speakers, replies, strict=False)
            ),
            plan.dialogue.turns[plan.prompt_turns : plan.prompt_turns + len(plan.speakers)],
        )
        for plan, replies in zip(plans, written, strict=True)
    ]


def _next_speakers(dialogue: Dialogue, first: int, count: int) -> list[str]:
    names = [turn.speaker for turn in dialogue.turns]
    while len(names) < first + count:
        others = [name for name in names[::-1] if name != names[-1]]
        names.append(others[0] if others else names[-1])
    return names[first : first + count]
