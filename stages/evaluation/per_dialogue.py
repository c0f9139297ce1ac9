"""Sums per dialogue: what every interval and every paired comparison is computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.evaluation.coherence import CoherenceItems
from stages.evaluation.curves import IntArray
from stages.evaluation.dialogue_table import Column, sum_per_dialogue
from stages.evaluation.recall import RecallItems
from stages.evaluation.response_scores import ResponseScores


def text_columns(scores: ResponseScores, num_dialogues: int) -> dict[str, Column]:
    """What is the same for every model: responses, their content's words and bytes in UTF-8."""
    return {
        "num_responses": np.bincount(scores.dialogue, minlength=num_dialogues),
        "num_words": _counts(scores.dialogue, scores.num_words, num_dialogues),
        "num_bytes": _counts(scores.dialogue, scores.num_bytes, num_dialogues),
    }


def model_columns(
    model: str, scores: ResponseScores, alone: ResponseScores, num_dialogues: int
) -> dict[str, Column]:
    """One model's sums in nats, and its tokens.

    Args:
        model: Begins the columns' names.
        scores: Of the responses after their history.
        alone: Of the same responses without history.
        num_dialogues: In the evaluation set.
    """
    assert (scores.num_bytes == alone.num_bytes).all()
    return {
        f"{model}_content_nll": sum_per_dialogue(
            scores.dialogue, scores.content_nll, num_dialogues
        ),
        f"{model}_end_nll": sum_per_dialogue(scores.dialogue, scores.end_nll, num_dialogues),
        f"{model}_num_tokens": _counts(scores.dialogue, scores.num_tokens, num_dialogues),
        f"{model}_alone_nll": sum_per_dialogue(alone.dialogue, alone.content_nll, num_dialogues),
    }


def block_columns(model: str, items: CoherenceItems, num_dialogues: int) -> dict[str, Column]:
    """One model's sums over the pairs of the coherence blocks, and what they are divided by."""

    def total(values: Column) -> NDArray[np.float64]:
        return sum_per_dialogue(items.dialogue, values, num_dialogues)

    return {
        "num_context_items": np.bincount(items.dialogue, minlength=num_dialogues),
        "block_bytes": _counts(items.dialogue, items.num_bytes, num_dialogues),
        f"{model}_own_nll": total(items.own_nll),
        f"{model}_foreign_nll": total(items.foreign_nll),
        f"{model}_context_hits": total(items.context_hits),
    }


def recall_columns(model: str, items: RecallItems, num_dialogues: int) -> dict[str, Column]:
    """One model's right answers by the dialogue that stood between fact and question."""
    return {
        "num_recall_items": np.bincount(items.dialogue, minlength=num_dialogues),
        f"{model}_recall_hits": sum_per_dialogue(items.dialogue, items.hits, num_dialogues),
    }


def _counts(dialogue: IntArray, values: IntArray, num_dialogues: int) -> IntArray:
    return sum_per_dialogue(dialogue, values, num_dialogues).astype(np.int64)
