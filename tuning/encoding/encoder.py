"""A piece of the prepared dialogues -> their windows, and what became of every token.

This is the part that runs on every core. Validation dialogues become windows as training ones do.
The others are tokenised too, so that the ledger's tokens add up to the input's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, from_line, trained_turns
from tuning.encoding.contract import (
    ContractError,
    check_renderings,
    check_text,
    check_windows,
)
from tuning.encoding.cutting import (
    Window,
    num_left_out,
    num_without_turn_before,
    weights_of,
    windows_of,
)
from tuning.reading.accounts import bucket
from tuning.reading.pieces import LineRange
from tuning.run.errors import UserError
from tuning.run.visible import as_name
from tuning.tokens.sandbox import Setting
from tuning.tokens.template import NotEncodableError, Reading, Rendering
from tuning.tokens.templates import make_template
from tuning.tokens.texts import TextDecoder
from tuning.tokens.tokenizer import read_all_as_text


@dataclass(kw_only=True)
class Counts:
    """What is counted of the dialogues of a piece, or of all."""

    num_tokens: Counter[str] = field(default_factory=Counter)
    """Tokens of all dialogues, tags and ends included, by bucket; each in one."""
    counts: Counter[str] = field(default_factory=Counter)
    """What is counted besides, by its name in ``metrics/encode.json``."""
    num_trained_of: Counter[str] = field(default_factory=Counter)
    """Trained tokens by source, of the training dialogues' sources; one may have none."""
    num_not_rendered: Counter[str] = field(default_factory=Counter)
    """Dialogues with parts that the template has no place for, by part."""
    num_turns: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Turns by role (empty: a person's) and whether they are trained."""
    speakers: set[str] = field(default_factory=set)
    """Names and roles of all who speak, where several are to be trained."""
    not_encodable: list[str] = field(default_factory=list)
    """Dialogues without windows, since tokenizer or template do not take them, each with why."""


@dataclass(kw_only=True)
class EncodedPiece(Counts):
    """Windows of one piece, one after another, and counts."""

    part: str
    """``train``, ``val``, ``test`` or ``dropped``; the last two have no windows."""
    input_ids: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """``[N]``."""
    is_target: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    """``[N]``."""
    weights: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """``[N]`` Each target's share in the loss; empty where all are 1."""
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """``[W]``, summing to N."""
    rendering_sizes: list[tuple[int, int]] = field(default_factory=list)
    """``[R]`` Tokens and targets of each rendering."""

    def hold(self, windows: Sequence[Window], weights: Mapping[int, Sequence[float]]) -> None:
        """Take the windows, as arrays, and the weights of those windows that have any."""
        ids = chain.from_iterable(window.input_ids for window in windows)
        marks = chain.from_iterable(window.is_target for window in windows)
        self.input_ids = np.fromiter(ids, np.int32)
        self.is_target = np.fromiter(marks, np.bool_)
        self.lengths = np.array([len(window.input_ids) for window in windows], np.int64)
        if weights:
            self.weights = np.ones(len(self.input_ids), np.float32)
            starts = np.cumsum(self.lengths) - self.lengths
            for number, of_window in weights.items():
                self.weights[starts[number] : starts[number] + len(of_window)] = of_window


class Encoder:
    """Encodes pieces of the files that prep wrote."""

    def __init__(
        self,
        template_name: str,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int,
        min_context: int,
        loss_on: str | Sequence[str],
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        """Take a template's name and a tokenizer with its tokens, which can be pickled."""
        read_all_as_text(tokenizer)
        self._decode = TextDecoder(tokenizer)
        self._template = make_template(template_name, tokenizer, settings)
        self._max_length = max_length
        self._min_context = min_context
        self._loss_on = loss_on

    def __call__(self, piece: tuple[str, LineRange]) -> EncodedPiece:
        """Encode the dialogues of one part."""
        part, lines = piece
        if part in ("train", "val"):
            return self._encode_windows(part, lines)
        return self._count(part, lines)

    def _encode_windows(self, part: str, lines: LineRange) -> EncodedPiece:
        found = EncodedPiece(part=part)
        every: list[Window] = []
        weights: dict[int, list[float]] = {}
        for raw in lines.records():
            dialogue = from_line(raw.text)
            reading = self._template.read(dialogue)
            try:
                num_composed = check_text(dialogue, [*map(self._decode, reading.contents())])
                trained = self._trained(dialogue)
                renderings = reading.renderings(trained)
            except NotEncodableError as error:
                found.not_encodable.append(f"dialogue {as_name(dialogue.dialogue_id)!r}: {error}")
                num_tokens = self._template.num_tokens(dialogue)
                found.num_tokens[bucket("not_encodable")] += num_tokens
                continue
            try:
                check_renderings(renderings, sum(trained), self._template)
                windows = [
                    windows_of(
                        reading, each, max_length=self._max_length, min_context=self._min_context
                    )
                    for each in renderings
                ]
                for some, rendering in zip(windows, renderings, strict=True):
                    check_windows(some, rendering, max_length=self._max_length)
            except ContractError as error:
                name = as_name(dialogue.dialogue_id)
                raise UserError(
                    f"dialogue {name!r}: {error}. Nothing was written, since it would be "
                    f"{'trained' if part == 'train' else 'scored'} wrongly."
                ) from None
            own = [*chain.from_iterable(windows)]
            shares = [turn.weight for turn in compress(dialogue.turns, trained)]
            if num_other := len(shares) - shares.count(1):
                found.counts["num_turns_of_other_weight"] += num_other
                of_windows = weights_of(own, shares, self._template.stop_ids)
                weights |= dict(enumerate(of_windows, start=len(every)))
            every += own
            found.counts["num_composed_turns"] += num_composed
            found.num_not_rendered.update(self._template.lacks(dialogue))
            roles = [turn.role or "" for turn in dialogue.turns]
            if not isinstance(self._loss_on, str):  # a text that nobody has trains nothing
                found.speakers.update(dialogue.speakers, roles)
            found.num_turns.update(zip(roles, trained, strict=True))
            _account(found, dialogue, reading, renderings, windows)
        found.hold(every, weights)
        return found

    def _trained(self, dialogue: Dialogue) -> list[bool]:
        """Say which turns are trained.

        Raises:
            UserError: the model's own template asks nobody else for an answer.
        """
        trained = trained_turns(dialogue.turns, dialogue.loss_on or self._loss_on)
        if not self._template.asks_all:
            # A person without a role is refused with the dialogue.
            roles = {turn.role for turn in compress(dialogue.turns, trained)}
            if others := roles - {"assistant", None}:
                source = f"data.sources.{dialogue.source}" if dialogue.loss_on else "encoding"
                raise UserError(
                    f"{source}.loss_on: {dialogue.loss_on or self._loss_on!r} would train the "
                    f"turns of {', '.join(sorted(map(str, others)))} too, and a chat template asks "
                    "the assistant alone for an answer. Set it to auto, or encoding.template to "
                    "speakers."
                )
        return trained

    def _count(self, part: str, lines: LineRange) -> EncodedPiece:
        """Count the tokens of dialogues without windows."""
        found = EncodedPiece(part=part)
        for raw in lines.records():
            record = json.loads(raw.text)
            name = bucket(record["reason"] if part == "dropped" else part)
            found.num_tokens[name] += self._template.num_tokens(from_line(raw.text))
        return found


def _account(
    found: EncodedPiece,
    dialogue: Dialogue,
    reading: Reading,
    renderings: Sequence[Rendering],
    windows: Sequence[Sequence[Window]],
) -> None:
    """Put every token of a dialogue into one bucket.

    Its tokens are those of its last rendering and of what is behind that, and the targets of
    the renderings before.
    """
    sizes = [(len(one.input_ids), sum(one.is_target)) for one in renderings]
    found.rendering_sizes += sizes
    num_targets = sum(trained for _, trained in sizes)
    num_all = reading.num_tokens()
    num_read, num_last = sizes[-1] if sizes else (0, 0)
    num_all = max(num_all, num_read) + num_targets - num_last
    if found.part == "val":
        found.num_tokens["validation"] += num_all
        return
    num_cut = num_left_out(renderings[-1], windows[-1]) if sizes else 0
    num_cut += max(0, num_all - (num_targets - num_last) - num_read)
    found.num_tokens["trained"] += num_targets
    found.num_trained_of[dialogue.source] += num_targets
    found.num_tokens["truncated"] += num_cut
    found.num_tokens["context"] += num_all - num_targets - num_cut
    found.counts["num_split_dialogues"] += any(len(some) > 1 for some in windows)
    found.counts["num_unrolled_dialogues"] += len(renderings) > 1
    for rendering, some in zip(renderings, windows, strict=True):
        if any(window.begin for window in some):
            in_part, whole = num_without_turn_before(some, reading.turn_starts(rendering))
            found.counts["num_targets_turn_before_cut"] += in_part
            found.counts["num_targets_turn_before_lost"] += whole
