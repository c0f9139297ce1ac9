"""Dialogues that the fine-tuned model continues, and the file in which people read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from stages.corpus.dialogue import Dialogue, Turn
from stages.encoding.speakers import SpeakerTokens


@dataclass(frozen=True)
class Sample:
    """A prompt, the model's turns after it, and what the people really said."""

    dialogue_id: str
    prompt: tuple[Turn, ...]
    reply: tuple[Turn, ...]
    human: tuple[Turn, ...]


def continue_dialogues(
    model: PreTrainedModel,
    template: SpeakerTokens,
    dialogues: Sequence[Dialogue],
    *,
    num_samples: int,
    prompt_turns: int,
    reply_turns: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[Sample]:
    """Let the model write the next turns of the first dialogues that are long enough.

    Speakers alternate as they did in the human dialogue. Each turn's random draws are seeded by a
    hash of the seed, the dialogue and the turn, so no sample depends on another.
    """
    tokenizer = template.tokenizer
    special = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    settings = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=template.end_of_turn_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[id_ for id_ in special if id_ != template.end_of_turn_id],
    )
    generate: Callable[..., Tensor] = model.generate  # type: ignore[assignment]
    samples: list[Sample] = []
    for dialogue in dialogues:
        if len(samples) == num_samples:
            break
        if len(dialogue.turns) <= prompt_turns:
            continue
        prompt = dialogue.turns[:prompt_turns]
        human = dialogue.turns[prompt_turns : prompt_turns + reply_turns]
        order = {speaker: index for index, speaker in enumerate(dialogue.speakers)}
        ids = [
            token_id
            for turn in template.encode(dialogue)[:prompt_turns]
            for token_id in (*turn.tag, *turn.content, *turn.end)
        ]
        reply: list[Turn] = []
        for number, turn in enumerate(human):
            ids += template.tag(order[turn.speaker])
            torch.manual_seed(_seed_of(seed, dialogue.dialogue_id, number))
            prompt_ids = torch.tensor([ids], device=model.device)
            output = generate(
                input_ids=prompt_ids,
                attention_mask=torch.ones_like(prompt_ids),
                generation_config=settings,
            )
            new = output[0, len(ids) :].tolist()
            text = (
                new[: new.index(template.end_of_turn_id)] if template.end_of_turn_id in new else new
            )
            ids += [*text, template.end_of_turn_id]
            reply.append(Turn(turn.speaker, str(tokenizer.decode(text)).strip()))
        samples.append(Sample(dialogue.dialogue_id, prompt, tuple(reply), human))
    return samples


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
        names = {
            speaker: f"speaker {number}"
            for number, speaker in enumerate(
                dict.fromkeys(turn.speaker for turn in (*sample.prompt, *sample.human)), start=1
            )
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


def _seed_of(seed: int, dialogue_id: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}\x1f{dialogue_id}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
