"""Dialogues that a model continues with itself, and the file in which people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue, Turn
from stages.encoding.speakers import Template
from stages.evaluation.decoding import Reply, Request, Sampling, write_replies


@dataclass(frozen=True)
class Sample:
    """A prompt, the model's turns after it, and what the people really said."""

    dialogue_id: str
    prompt: tuple[Turn, ...]
    reply: tuple[Turn, ...]
    human: tuple[Turn, ...]

    def beginning(self, num_turns: int) -> Sample:
        """The sample with so many turns behind the prompt."""
        return replace(self, reply=self.reply[:num_turns], human=self.human[:num_turns])


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
    """Let the model write the next turns of the first dialogues, if it can those long enough.

    Speakers alternate as they did in the human dialogue; behind its end, the last two take turns. A
    dialogue with no more turns than the prompt has is continued in place of its last one; one of a
    single turn has nothing to continue and is left out.
    """
    answered = [one for one in dialogues if len(one.turns) > 1]
    chosen = sorted(answered, key=lambda one: len(one.turns) <= prompt_turns)[:num_samples]
    prompts = [min(prompt_turns, len(one.turns) - 1) for one in chosen]
    contexts = [context_ids(template, *one) for one in zip(chosen, prompts, strict=True)]
    speakers = [
        _next_speakers(one, first, reply_turns) for one, first in zip(chosen, prompts, strict=True)
    ]
    requests = [
        Request(
            context=number,
            length=len(contexts[number]),
            speakers=tuple(one.speakers.index(name) for name in speakers[number]),
            sampling=sampling,
            name=one.dialogue_id,
        )
        for number, one in enumerate(chosen)
    ]
    written = write_replies(
        model,
        template,
        contexts,
        requests,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    return [
        Sample(
            one.dialogue_id,
            one.turns[:first],
            tuple(
                Turn(name, text_of(template, reply))
                for name, reply in zip(names, replies, strict=False)
            ),
            one.turns[first : first + reply_turns],
        )
        for one, first, names, replies in zip(chosen, prompts, speakers, written, strict=True)
    ]


def context_ids(template: Template, dialogue: Dialogue, num_turns: int) -> list[int]:
    """The first turns as the model reads them, before the next speaker's tag."""
    turns = template.encode(dialogue)[:num_turns]
    return [token for turn in turns for token in (*turn.tag, *turn.content, *turn.end)]


def text_of(template: Template, reply: Reply) -> str:
    """What a reply says."""
    return str(template.tokenizer.decode(list(reply.ids))).strip()


def _next_speakers(dialogue: Dialogue, first: int, count: int) -> list[str]:
    names = [turn.speaker for turn in dialogue.turns]
    while len(names) < first + count:
        others = [name for name in names[::-1] if name != names[-1]]
        names.append(others[0] if others else names[-1])
    return names[first : first + count]


SAMPLE_COLUMNS = ("dialogue_id", "prompt", "model", "people")


def samples_as_rows(samples: Sequence[Sample]) -> list[list[str]]:
    """Samples as a table of texts, ``SAMPLE_COLUMNS``, for the tracker."""

    def text(turns: tuple[Turn, ...]) -> str:
        return "\n".join(f"{turn.speaker}: {turn.utterance}" for turn in turns)

    return [[s.dialogue_id, text(s.prompt), text(s.reply), text(s.human)] for s in samples]


def samples_as_markdown(samples: Sequence[Sample]) -> str:
    """A page with each prompt, the model's continuation, and the human one."""
    lines = ["# Validation dialogues, continued by the fine-tuned model", ""]
    for sample in samples:
        shown = (*sample.prompt, *sample.human, *sample.reply)
        names = {
            speaker: f"speaker {number}"
            for number, speaker in enumerate(dict.fromkeys(turn.speaker for turn in shown), start=1)
        }
        lines += [f"## {sample.dialogue_id}", ""]
        for title, turns in (
            ("Prompt", sample.prompt),
            ("Model", sample.reply),
            ("People", sample.human),
        ):
            lines += [f"**{title}**", ""]
            for turn in turns:
                text = " / ".join(turn.utterance.splitlines()) or "(says nothing)"
                lines.append(f"- {names[turn.speaker]}: `{text.replace('`', chr(39))}`")
            lines.append("")
    return "\n".join(lines)
