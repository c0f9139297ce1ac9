"""The rules that every window must satisfy, checked while it is made.

A mask that is off by one, a reply that lost its end token, a tokenizer that drops characters: each
trains without an error and shows only in what the model says. So each is an error here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress

from tuning.dialogue import Dialogue
from tuning.encoding.cutting import Window
from tuning.tokens.template import EncodedTurn, Template
from tuning.tokens.texts import is_same_text


class ContractError(Exception):
    """A window or a turn breaks a rule: the message says what it holds and what it should."""


class NotEncodable(ContractError):
    """The tokenizer changes a turn's text: these two do not fit together, and no code mends it."""


def check_windows(
    windows: Sequence[Window],
    turns: Sequence[EncodedTurn],
    trained: Sequence[bool],
    *,
    max_length: int,
    template: Template,
) -> None:
    """Check one dialogue's windows against its encoded turns.

    Every window fits, begins as it should and has a target; the targets are, in order, the content
    and the end of every trained turn, each once: so no context is trained, and nothing that should
    be is left out; no tag, no pad and nothing that begins a window is a target; each trained turn
    stops once, at its end.

    Raises:
        ContractError: the first violation.
    """
    targets: list[int] = []
    for number, window in enumerate(windows, start=1):
        if not len(window.input_ids) == len(window.is_target) <= max_length:
            raise ContractError(
                f"window {number} has {len(window.input_ids)} tokens and {len(window.is_target)} "
                f"marks; wanted as many of each, at most {max_length}"
            )
        if window.input_ids[: len(template.start)] != template.start:
            raise ContractError(f"window {number} does not begin with {template.start}")
        own = list(compress(window.input_ids, window.is_target))
        if not own:
            raise ContractError(f"window {number} trains nothing")
        targets += own
    pairs = [turn for turn, is_trained in zip(turns, trained, strict=True) if is_trained]
    wanted: list[int] = []
    for turn in pairs:
        wanted += turn.content
        wanted += turn.end
    if targets != wanted:
        raise ContractError(
            f"its windows train {len(targets)} tokens, which are not the {len(wanted)} of the "
            f"{len(pairs)} turns that are to be trained"
        )
    if not template.untrained_ids.isdisjoint(targets):
        raise ContractError("a speaker token, a pad or a window's beginning would be trained")
    num_ends = sum(map(template.stop_ids.__contains__, targets))
    if num_ends != len(pairs):
        raise ContractError(f"{num_ends} ends of turn would be trained; wanted {len(pairs)}")


def check_text(dialogue: Dialogue, decoded: Sequence[str]) -> int:
    """Check that decoding each turn's content gives its utterance back.

    Returns:
        Turns that come back in another Unicode composition: some tokenizers begin with that.

    Raises:
        NotEncodable: the tokenizer changes a turn's text in any other way.
    """
    num_composed = 0
    for number, (turn, text) in enumerate(zip(dialogue.turns, decoded, strict=True), start=1):
        if turn.text == text:
            continue
        if is_same_text(turn.text, text):
            num_composed += 1
            continue
        place = len(os.path.commonprefix([turn.text, text]))
        wanted, found = (t[max(0, place - 10) : place + 20] for t in (turn.text, text))
        raise NotEncodable(
            f"the tokenizer changes turn {number} at character {place + 1}: {wanted!r} comes back "
            f"as {found!r}"
        )
    return num_composed
