"""A dialogue as the tokens that the model sees, for a person to look at.

A training dialogue is shown window by window, made by the same functions as what is trained. One
that is held out or dropped is shown as one run of tokens, since none of it is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerFast

from stages.corpus.buckets import bucket
from stages.corpus.dialogue import Dialogue
from stages.corpus.split import SIDES
from stages.encoding.speakers import END_OF_TURN, SpeakerTokens, speaker_token
from stages.encoding.texts import encode_texts, token_texts
from stages.encoding.windows import Window, cut_windows, trained_turns

Kind = Literal["speaker", "trained", "context", "held_out", "dropped"]


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token, or several that only together make up a character."""

    text: str
    kind: Kind
    num_tokens: int = 1
    is_special: bool = False
    """A speaker token or an end of turn; text that spells one is not."""


@dataclass(frozen=True, slots=True)
class ShownWindow:
    """Tokens in order; a turn begins at each of kind ``speaker``."""

    tokens: tuple[ShownToken, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens in the window, repeated context included."""
        return sum(token.num_tokens for token in self.tokens)

    @property
    def num_trained(self) -> int:
        """Target tokens."""
        return sum(token.num_tokens for token in self.tokens if token.kind == "trained")

    @property
    def turns(self) -> list[list[ShownToken]]:
        """Its tokens by turn; each turn begins with its speaker token."""
        turns: list[list[ShownToken]] = []
        for token in self.tokens:
            if token.kind == "speaker":
                turns.append([])
            turns[-1].append(token)
        return turns


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDialogue:
    """A dialogue and what became of it."""

    dialogue_id: str
    bucket: str
    """As in the ledgers: ``train``, ``validation``, ``test`` or ``dropped_…``."""
    windows: tuple[ShownWindow, ...]
    num_tokens: int
    """Tokens of its turns, each counted once however many windows repeat it."""
    num_truncated: int = 0
    """Of them in no window."""

    @property
    def title(self) -> str:
        """What became of it, in words."""
        if self.bucket == "train":
            return "Training dialogue"
        if self.bucket.startswith("dropped_"):
            return f"Dropped: {self.bucket.removeprefix('dropped_').replace('_', ' ')}"
        return f"{self.bucket.capitalize()} dialogue, held out"

    @property
    def counts(self) -> str:
        """How many tokens, and what the ledger counts them as."""
        if self.bucket != "train":
            return f"{counted(self.num_tokens, 'token')}, not trained"
        trained = sum(window.num_trained for window in self.windows)
        context = self.num_tokens - trained - self.num_truncated
        truncated = f", {self.num_truncated:,} truncated" if self.num_truncated else ""
        return (
            f"{counted(self.num_tokens, 'token')} ({trained:,} trained, {context:,} context"
            f"{truncated}) in {counted(len(self.windows), 'window')}"
        )


def show_dialogue(
    dialogue: Dialogue,
    fate: str,
    template: SpeakerTokens,
    *,
    max_length: int,
    context_turns: int,
    loss_on: str,
) -> ShownDialogue:
    """A dialogue as tokens.

    Args:
        dialogue: What prep wrote.
        fate: Its side (``train``, ``val``, ``test``), or the reason that it was dropped.
        template: With the tokens of as many speakers as dialogues on a side have.
        max_length: Tokens that a window may have.
        context_turns: Turns that a later window repeats.
        loss_on: Which turns are trained.
    """
    if fate != "train":
        kind: Kind = "held_out" if fate in SIDES else "dropped"
        window = _whole(dialogue, template.tokenizer, kind)
        return ShownDialogue(
            dialogue_id=dialogue.dialogue_id,
            bucket=bucket(fate),
            windows=(window,),
            num_tokens=window.num_tokens,
        )
    turns = template.encode(dialogue)
    trained = trained_turns(turns, loss_on)
    cut = cut_windows(
        turns,
        trained,
        max_length=max_length,
        context_turns=context_turns,
        start_ids=template.start,
    )
    special = {
        template.tag(index)[0]: speaker_token(index) for index in range(len(dialogue.speakers))
    }
    special[template.end_of_turn_id] = END_OF_TURN
    windows = (_show_window(window, template, special) for window in cut.windows)
    return ShownDialogue(
        dialogue_id=dialogue.dialogue_id,
        bucket=bucket(fate),
        windows=tuple(windows),
        num_tokens=sum(len(turn) for turn in turns),
        num_truncated=cut.num_truncated,
    )


def visible(text: str) -> Iterator[tuple[str, bool]]:
    """What to print for each character, and whether it stands in for one that cannot be seen."""
    for character in text:
        if character.isprintable():
            yield character, False
        else:
            yield {"\n": "↵", "\t": "⇥"}.get(character) or ascii(character)[1:-1], True


def counted(number: int, noun: str) -> str:
    """``1 window``, ``1,200 windows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _whole(dialogue: Dialogue, tokenizer: PreTrainedTokenizerFast, kind: Kind) -> ShownWindow:
    """All turns; a dropped dialogue may have more speakers than the tokenizer has tokens for."""
    tags = {name: speaker_token(index) for index, name in enumerate(dialogue.speakers)}
    tokens: list[ShownToken] = []
    contents = encode_texts(tokenizer, [turn.utterance for turn in dialogue.turns])
    for turn, content in zip(dialogue.turns, contents, strict=True):
        tokens.append(ShownToken(tags[turn.speaker], "speaker", is_special=True))
        tokens += (ShownToken(text, kind, num) for text, num in token_texts(tokenizer, content))
        tokens.append(ShownToken(END_OF_TURN, kind, is_special=True))
    return ShownWindow(tuple(tokens))


def _show_window(window: Window, template: SpeakerTokens, special: dict[int, str]) -> ShownWindow:
    """Its tokens; what the tokenizer begins it with is shown as one with the first speaker's."""
    tokens: list[ShownToken] = []
    start = len(template.start)
    before = "".join(template.tokenizer.convert_ids_to_tokens(template.start))
    while start < len(window.input_ids):
        kind: Kind = "trained" if window.is_target[start] else "context"
        text = special.get(window.input_ids[start])
        if text is not None:
            kind = kind if text == END_OF_TURN else "speaker"
            num = 1 if tokens else 1 + start
            tokens.append(ShownToken(text if tokens else before + text, kind, num, True))
            start += 1
            continue
        stop = start
        while stop < len(window.input_ids) and window.input_ids[stop] not in special:
            stop += 1
        content = window.input_ids[start:stop]
        texts = token_texts(template.tokenizer, content)
        tokens += (ShownToken(text, kind, num) for text, num in texts)
        start = stop
    return ShownWindow(tuple(tokens))
