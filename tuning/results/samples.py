"""Dialogues as a model went on with them, and the file in which people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuning.dialogue import Turn
from tuning.run.visible import JOINER, as_name, visible

SAMPLE_COLUMNS = ("dialogue_id", "prompt", "model", "people")


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


def shown_names(turns: Sequence[Turn]) -> dict[str, str]:
    """Return what to call each speaker: roles by their names, people by number, as they appear."""
    roles = {turn.speaker for turn in turns if turn.speaker == turn.role}  # a reply may have none
    people = (turn.speaker for turn in turns if turn.speaker not in roles)
    numbers = {name: f"speaker {n}" for n, name in enumerate(dict.fromkeys(people), start=1)}
    return {turn.speaker: numbers.get(turn.speaker, turn.speaker) for turn in turns}


def samples_as_rows(samples: Sequence[Sample]) -> list[list[str]]:
    """Samples as a table of texts, ``SAMPLE_COLUMNS``, for the tracker."""

    def text(turns: tuple[Turn, ...]) -> str:
        return "\n".join(f"{turn.speaker}: {turn.text}" for turn in turns)

    return [[as_name(s.dialogue_id), text(s.prompt), text(s.reply), text(s.human)] for s in samples]


def samples_as_markdown(samples: Sequence[Sample]) -> str:
    """A page with each prompt, the model's continuation, and the human one."""
    lines = ["# Validation dialogues, continued by the fine-tuned model", ""]
    for sample in samples:
        names = shown_names([*sample.prompt, *sample.human, *sample.reply])
        lines += [f"## {as_name(sample.dialogue_id)}", ""]
        for title, turns in (
            ("Prompt", sample.prompt),
            ("Model", sample.reply),
            ("People", sample.human),
        ):
            lines += [f"**{title}**", ""]
            for turn in turns:
                text = " / ".join(turn.text.splitlines())
                text = visible(text, keep=JOINER) or "(says nothing)"
                lines.append(f"- {names[turn.speaker]}: `{text.replace('`', chr(39))}`")
            lines.append("")
    return "\n".join(lines)
