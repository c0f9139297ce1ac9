"""A piece of the prepared dialogues -> their windows, and what became of every token.

This is the part that runs on every core. Validation dialogues become windows as training ones do.
The others are tokenised too, so that the ledger's tokens add up to the input's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, from_line
from tuning.encoding.contract import ContractError, NotEncodable, check_text, check_windows
from tuning.encoding.cutting import Window, cut_windows, trained_turns
from tuning.reading.accounts import bucket
from tuning.reading.pieces import LineRange
from tuning.run.errors import UserError
from tuning.tokens.templates import make_template
from tuning.tokens.tokenizer import read_all_as_text


@dataclass(frozen=True, kw_only=True)
class EncodedPiece:
    """Windows of one piece, one after another, and counts."""

    part: str
    """``train``, ``val``, ``test`` or ``dropped``; the last two have no windows."""
    input_ids: npt.NDArray[np.int32]
    """``[N]``."""
    is_target: npt.NDArray[np.bool_]
    """``[N]``."""
    lengths: npt.NDArray[np.int64]
    """``[W]``, summing to N."""
    num_tokens: Counter[str]
    """Tokens of the piece's dialogues, tags and ends included, by bucket; each in one."""
    num_split_turns: int
    """Turns that were split, as too long for a window."""
    num_composed_turns: int
    """Turns that the tokenizer gives back in another Unicode composition."""
    not_encodable: list[str]
    """Dialogues without windows since the tokenizer changes their text, each with the change."""
    num_not_rendered: Counter[str]
    """Turns with reasoning and dialogues with tools that the template has no place for."""


class Encoder:
    """Encodes pieces of the files that prep wrote."""

    def __init__(
        self,
        template_name: str,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int,
        context_turns: int,
        loss_on: str,
    ) -> None:
        """Take a template's name and a tokenizer with its tokens, which can be pickled."""
        read_all_as_text(tokenizer)
        self._tokenizer = tokenizer
        self._template = make_template(template_name, tokenizer)
        self._max_length = max_length
        self._context_turns = context_turns
        self._loss_on = loss_on

    def __call__(self, piece: tuple[str, LineRange]) -> EncodedPiece:
        """Encode the dialogues of one part."""
        part, lines = piece
        if part in ("train", "val"):
            return self._encode_windows(part, lines)
        return self._count(part, lines)

    def _encode_windows(self, part: str, lines: LineRange) -> EncodedPiece:
        start = self._template.start
        dialogues = [from_line(raw.text) for raw in lines.records()]
        windows: list[Window] = []
        num_tokens: Counter[str] = Counter()
        num_split_turns = num_composed_turns = 0
        encodable: list[Dialogue] = []
        not_encodable: list[str] = []
        encoded = [self._template.encode(dialogue) for dialogue in dialogues]
        decoded = iter(
            self._tokenizer.backend_tokenizer.decode_batch(
                [turn.content for turns in encoded for turn in turns], skip_special_tokens=False
            )
        )
        for dialogue, turns in zip(dialogues, encoded, strict=True):
            lengths = [len(turn) for turn in turns]
            try:
                num_composed_turns += check_text(dialogue, [next(decoded) for _ in turns])
            except NotEncodable as error:
                not_encodable.append(f"dialogue {dialogue.dialogue_id!r}: {error}")
                num_tokens[bucket("not_encodable")] += sum(lengths)
                continue
            encodable.append(dialogue)
            trained = trained_turns(dialogue.turns, self._loss_on)
            cut = cut_windows(
                turns,
                trained,
                max_length=self._max_length,
                context_turns=self._context_turns,
                start_ids=start,
            )
            try:
                check_windows(
                    cut.windows,
                    turns,
                    trained,
                    max_length=self._max_length,
                    template=self._template,
                )
            except ContractError as error:
                raise UserError(
                    f"dialogue {dialogue.dialogue_id!r}: {error}. Nothing was written, since it "
                    f"would be {'trained' if part == 'train' else 'scored'} wrongly."
                ) from None
            windows += cut.windows
            num_split_turns += sum(length > self._max_length - len(start) for length in lengths)
            if part == "val":
                num_tokens["validation"] += sum(lengths)
                continue
            num_trained = sum(
                length - len(turn.tag)
                for turn, length, is_trained in zip(turns, lengths, trained, strict=True)
                if is_trained
            )
            num_tokens["trained"] += num_trained
            num_tokens["truncated"] += cut.num_truncated
            num_tokens["context"] += sum(lengths) - num_trained - cut.num_truncated
        return EncodedPiece(
            part=part,
            input_ids=np.fromiter(chain.from_iterable(w.input_ids for w in windows), np.int32),
            is_target=np.fromiter(chain.from_iterable(w.is_target for w in windows), np.bool_),
            lengths=np.array([len(window.input_ids) for window in windows], np.int64),
            num_tokens=num_tokens,
            num_split_turns=num_split_turns,
            num_composed_turns=num_composed_turns,
            not_encodable=not_encodable,
            num_not_rendered=self._not_rendered(encodable),
        )

    def _not_rendered(self, dialogues: Sequence[Dialogue]) -> Counter[str]:
        reasoning = sum(bool(turn.reasoning) for one in dialogues for turn in one.turns)
        found = {"reasoning": reasoning, "tools": sum(bool(one.tools) for one in dialogues)}
        return Counter({part: n for part, n in found.items() if n and part in self._template.lacks})

    def _count(self, part: str, lines: LineRange) -> EncodedPiece:
        """Count the tokens of dialogues without windows."""
        num_tokens: Counter[str] = Counter()
        for raw in lines.records():
            record = json.loads(raw.text)
            name = bucket(record["reason"] if part == "dropped" else part)
            num_tokens[name] += self._template.num_tokens(from_line(raw.text))
        return EncodedPiece(
            part=part,
            input_ids=np.empty(0, np.int32),
            is_target=np.empty(0, np.bool_),
            lengths=np.empty(0, np.int64),
            num_tokens=num_tokens,
            num_split_turns=0,
            num_composed_turns=0,
            not_encodable=[],
            num_not_rendered=Counter(),
        )
