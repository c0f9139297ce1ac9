"""Bits per byte of the dialogues as text without any template, speakers unknown.

As lm-evaluation-harness's ``loglikelihood_rolling`` does it: every token of a text is predicted
once, the first from a token that begins texts. A text of more tokens than a window goes in disjoint
windows, each predicted from the one token before it; the last, being shorter, from as many as fit::

    tokens   t0 t1 t2 | t3 t4 t5 | t6        windows of 3
             B  t0 t1   t2 t3 t4   t3 t4 t5  what predicts them
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue
from tuning.results.dialogue_table import FloatArray
from tuning.scoring.measure import Findings, Subject
from tuning.scoring.nats import Scoring, TokenSequence, sums
from tuning.tokens.texts import encode_texts

WINDOW_TOKENS = 1023
"""Tokens that a window predicts: with the one before them they fill GPT-2's 1,024 positions."""


def measure_plain_text(subject: Subject) -> Scoring[Findings]:
    """Score all turns as text without a template."""
    bits = yield from all_bits_per_byte(
        subject.num_visible, subject.template.tokenizer, subject.dialogues
    )
    return Findings(figures={"all_bits_per_byte": bits})


def all_bits_per_byte(
    num_visible: int, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]
) -> Scoring[float]:
    """Bits per UTF-8 byte of all turns, a line each, over the whole set: Σ NLL / (ln 2 · Σ B)."""
    texts = [text_of(dialogue) for dialogue in dialogues]
    max_length = min(WINDOW_TOKENS, num_visible - 1)
    nll = yield from rolling_nll(tokenizer, texts, max_length=max_length)
    return float(nll.sum() / (math.log(2) * sum(len(text.encode()) for text in texts)))


def text_of(dialogue: Dialogue) -> str:
    """The dialogue's utterances, a line each."""
    return "\n".join(turn.text for turn in dialogue.turns)


def rolling_nll(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, max_length: int
) -> Scoring[FloatArray]:
    """Find the nats of each text, ``[N]``, in windows that predict ``max_length`` tokens."""
    sequences: list[TokenSequence] = []
    text_of_window: list[int] = []
    first = _first_token(tokenizer)
    for number, ids in enumerate(encode_texts(tokenizer, texts)):
        for start in range(0, len(ids), max_length):
            stop = min(start + max_length, len(ids))
            context = ids[max(stop - max_length - 1, 0) : start] or [first]
            sequences.append(TokenSequence.after(context, ids[start:stop]))
            text_of_window.append(number)
    scores = yield sequences
    nll: FloatArray = np.zeros(len(texts))
    np.add.at(nll, text_of_window, sums(scores))
    return nll


def _first_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that begins texts, or else ends them, or else ends lines."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    return encode_texts(tokenizer, ["\n"])[0][-1]
