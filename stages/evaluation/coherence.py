"""Response coherence: can the model tell which context a human response belongs to?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from stages.corpus.dialogue import Dialogue
from stages.encoding.packing import PREFIX_SEGMENT
from stages.encoding.speakers import Template
from stages.evaluation.perplexity import append_turn
from stages.evaluation.scoring import FloatArray, TokenSequence, token_nll

RESPONSE_TURN = 5
"""Index of the response in its dialogue; the context is the turns before it."""


def make_blocks(
    dialogues: Sequence[Dialogue], *, num_candidates: int, max_blocks: int
) -> list[list[Dialogue]]:
    """Blocks of dialogues that reach the response turn, with no two equal responses in a block.

    Each dialogue is in one block at most, cut after its response. What is left over when no block
    can be filled any more is not used.
    """
    blocks: list[list[Dialogue]] = []
    for dialogue in dialogues:
        if len(dialogue.turns) <= RESPONSE_TURN:
            continue
        cut = Dialogue(dialogue.dialogue_id, dialogue.turns[: RESPONSE_TURN + 1])
        for block in blocks:
            if len(block) < num_candidates and _response(cut) not in map(_response, block):
                block.append(cut)
                break
        else:
            if len(blocks) < max_blocks:
                blocks.append([cut])
    return [block for block in blocks if len(block) == num_candidates]


def context_identification(
    model: PreTrainedModel,
    template: Template,
    blocks: Sequence[Sequence[Dialogue]],
    *,
    batch_size: int,
) -> FloatArray:
    """Per response: 1 if its own context makes it likeliest among the block's, shared among ties.

    The argmax runs over contexts for one response, so the response's length and the frequency of
    its words cancel. Chance is 1 / the block's size. One array entry per response, block by block.
    """
    sequences: list[TokenSequence] = []
    spans: list[list[slice]] = []
    for block in blocks:
        encoded = [template.encode(dialogue) for dialogue in block]
        for own in encoded:
            sequence = TokenSequence()
            for turn in own[:-1]:
                append_turn(sequence, turn, segment=PREFIX_SEGMENT, first_position=len(sequence))
            length = len(sequence)
            rows = []
            for segment, other in enumerate(encoded, start=1):
                # The tag is that of the context's next speaker, whoever said the response.
                tag = sequence.append(own[-1].tag, segment=segment, first_position=length)
                first = length + tag.stop - tag.start
                rows.append(
                    sequence.append(other[-1].content, segment=segment, first_position=first)
                )
            sequences.append(sequence)
            spans.append(rows)
    nll = token_nll(model, sequences, batch_size=batch_size)
    hits: list[float] = []
    start = 0
    for block in blocks:
        size = len(block)
        # scores[c, r]: nats of response r after context c
        scores = np.array(
            [[nll[start + c][spans[start + c][r]].sum() for r in range(size)] for c in range(size)]
        )
        best = scores == scores.min(axis=0)
        hits += (np.diagonal(best) / best.sum(axis=0)).tolist()
        start += size
    return np.array(hits)


def _response(dialogue: Dialogue) -> str:
    return dialogue.turns[RESPONSE_TURN].utterance
