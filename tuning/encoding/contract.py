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
from tuning.tokens.template import NotEncodableError, Rendering, Template
from tuning.tokens.texts import is_same_text


class ContractError(Exception):
    """A window or a turn breaks a rule: the message says what it holds and what it should."""


def check_renderings(renderings: Sequence[Rendering], num_trained: int, template: Template) -> None:
    """Check what is trained of a dialogue: each trained turn stops once, and no tag is a target.

    Args:
        renderings: All of the dialogue's.
        num_trained: Turns that are trained.
        template: The one that wrote them.

    Raises:
        ContractError: the first violation.
    """
    targets: list[int] = []
    for rendering in renderings:
        if rendering.is_target and rendering.is_target[0]:
            raise ContractError("its first token would be trained, and nothing predicts it")
        targets += compress(rendering.input_ids, rendering.is_target)
    if not template.untrained_ids.isdisjoint(targets):
        raise ContractError("a speaker token, a pad or a window's beginning would be trained")
    num_ends = sum(map(template.stop_ids.__contains__, targets))
    if num_ends != num_trained:
        raise ContractError(f"{num_ends} ends of turn would be trained; wanted {num_trained}")


def check_windows(windows: Sequence[Window], rendering: Rendering, *, max_length: int) -> None:
    """Check the windows of a rendering against it.

    Every window fits, has a target, which is not its first token, and holds the rendering's own
    tokens in their order; the targets are, in order, those of the rendering, each once.

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
        stop = window.begin + len(window.input_ids) - window.num_head
        head = rendering.input_ids[: window.num_head]
        if window.input_ids != head + rendering.input_ids[window.begin : stop]:
            raise ContractError(f"window {number} does not hold the dialogue's tokens in order")
        if window.is_target[:1] == [True]:
            raise ContractError(f"window {number} trains its first token, which nothing predicts")
        own = list(compress(window.input_ids, window.is_target))
        if not own:
            raise ContractError(f"window {number} trains nothing")
        targets += own
    wanted = list(compress(rendering.input_ids, rendering.is_target))
    if targets != wanted:
        raise ContractError(
            f"its windows train {len(targets)} tokens, which are not the {len(wanted)} of the "
            "turns that are to be trained"
        )


def check_text(dialogue: Dialogue, decoded: Sequence[str]) -> int:
    """Check that decoding each turn's content gives its utterance back.

    Returns:
        Turns that come back in another Unicode composition: some tokenizers begin with that.

    Raises:
        NotEncodableError: the tokenizer changes a turn's text in any other way.
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
        raise NotEncodableError(
            f"the tokenizer changes turn {number} at character {place + 1}: {wanted!r} comes back "
            f"as {found!r}"
        )
    return num_composed
