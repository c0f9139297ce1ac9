"""A dialogue as the tokens that the model sees, for a person to look at.

A training dialogue is shown window by window, made by the same functions as what is trained. One
that is held out or dropped is not cut: it is shown as its template writes it, or turn by turn where
that does not take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from tuning.dialogue import Dialogue, trained_turns
from tuning.encoding.cutting import Window, num_left_out, windows_of
from tuning.pages.words import counted
from tuning.reading.accounts import SIDES, bucket
from tuning.run.visible import as_name
from tuning.tokens.template import NotEncodableError, Rendering, Template
from tuning.tokens.texts import encode_texts, gives_back, token_texts

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
    """Tokens in order; a turn begins at each of kind ``speaker``, the first maybe before them."""

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
    def turns(self) -> list[tuple[ShownToken | None, list[ShownToken]]]:
        """Its tokens by turn, each behind the one that begins the turn, if that stands here."""
        turns: list[tuple[ShownToken | None, list[ShownToken]]] = []
        for token in self.tokens:
            if token.kind == "speaker":
                turns.append((token, []))
                continue
            if not turns:
                turns.append((None, []))
            turns[-1][1].append(token)
        return turns


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDialogue:
    """A dialogue and what became of it."""

    dialogue_id: str
    """As a name that may stand on a page."""
    bucket: str
    """Its bucket in the ledgers: ``train``, ``validation``, ``test`` or ``dropped_…``."""
    windows: tuple[ShownWindow, ...]
    num_tokens: int
    """Tokens of its turns, each counted once however many windows repeat it."""
    num_truncated: int = 0
    """Tokens of them that are in no window."""

    @property
    def title(self) -> str:
        """The fate of the dialogue, in words."""
        if self.bucket == "train":
            return "Training dialogue"
        if self.bucket.startswith("dropped_"):
            return f"Dropped: {self.bucket.removeprefix('dropped_').replace('_', ' ')}"
        return f"{self.bucket.capitalize()} dialogue, held out"

    @property
    def counts(self) -> str:
        """The number of its tokens, and the ledger's buckets of them."""
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
    template: Template,
    *,
    max_length: int,
    min_context: int,
    loss_on: str | Sequence[str],
) -> ShownDialogue:
    """A dialogue as tokens.

    Args:
        dialogue: What prep wrote.
        fate: Its side (``train``, ``val``, ``test``), or the reason that it was dropped.
        template: With the tags of as many speakers as dialogues on a side have.
        max_length: Tokens that a window may have.
        min_context: Tokens that a later window repeats at least.
        loss_on: Which turns are trained, where the dialogue's source does not say so.
    """
    # A dropped dialogue may have more speakers than there are tags for.
    reading = template.read(dialogue) if fate in SIDES or not template.asks_all else None
    renderings: list[Rendering] = []
    try:
        trained = trained_turns(dialogue.turns, dialogue.loss_on or loss_on)
        renderings = reading.renderings(trained) if reading else []
    except NotEncodableError:
        fate = "not_encodable" if fate in ("train", "val") else fate
    if fate in ("train", "val") and not gives_back(template.tokenizer, dialogue):
        fate = "not_encodable"
    if fate != "train" or reading is None:
        kind: Kind = "held_out" if fate in SIDES else "dropped"
        whole = [_show_window(each, template, kind) for each in renderings]
        whole = whole or [_show_turns(dialogue, template, kind)]
        return ShownDialogue(
            dialogue_id=as_name(dialogue.dialogue_id),
            bucket=bucket(fate),
            windows=tuple(whole),
            num_tokens=sum(window.num_tokens for window in whole),
        )
    shown: list[ShownWindow] = []
    num_truncated = 0
    for rendering in renderings:
        windows = windows_of(reading, rendering, max_length=max_length, min_context=min_context)
        shown += (_show_window(window, template) for window in windows)
        num_truncated += num_left_out(rendering, windows)
    return ShownDialogue(
        dialogue_id=as_name(dialogue.dialogue_id),
        bucket=bucket(fate),
        windows=tuple(shown),
        num_tokens=sum(len(rendering.input_ids) for rendering in renderings),
        num_truncated=num_truncated,
    )


def _show_turns(dialogue: Dialogue, template: Template, kind: Kind) -> ShownWindow:
    """All turns, of a dialogue that the template may not take: with names where it has no tags."""
    tags = template.spelled_tags(dialogue)
    tokens: list[ShownToken] = []
    contents = encode_texts(template.tokenizer, [turn.text for turn in dialogue.turns])
    for turn, content in zip(dialogue.turns, contents, strict=True):
        tokens.append(ShownToken(tags[turn.speaker], "speaker", is_special=True))
        tokens += _content(content, kind, template)
        tokens.append(_mark(min(template.stop_ids), kind, template))
    return ShownWindow(tuple(tokens))


def _show_window(
    window: Window | Rendering, template: Template, only: Kind | None = None
) -> ShownWindow:
    """Its tokens, maybe all of one kind: the template's marks one by one, the rest as text."""
    tokens: list[ShownToken] = []
    runs = zip(window.input_ids, window.is_target, strict=True)
    for (is_mark, is_target), run in groupby(
        runs, key=lambda one: (template.is_mark(one[0]), one[1])
    ):
        kind: Kind = only or ("trained" if is_target else "context")
        ids = [token_id for token_id, _ in run]
        if not is_mark:
            tokens += _content(ids, kind, template)
            continue
        for token_id in ids:
            begins = template.begins_turn(token_id)
            tokens.append(_mark(token_id, "speaker" if begins else kind, template))
    return ShownWindow(tuple(tokens))


def _content(input_ids: Sequence[int], kind: Kind, template: Template) -> Iterator[ShownToken]:
    return (ShownToken(text, kind, num) for text, num in token_texts(template.tokenizer, input_ids))


def _mark(token_id: int, kind: Kind, template: Template) -> ShownToken:
    text = template.tokenizer.decode([token_id], skip_special_tokens=False)
    return ShownToken(str(text), kind, is_special=True)
