"""The amounts that an evaluation measures, by profile: ``score.profile``.

Perplexity, history gain and the plain text always take the whole evaluation set, which has its own
parameters. What is measured on a choice of it has its amounts here, so that one word in params.yaml
says how far the numbers of two evaluations can be trusted, and what they cost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Upper limits for what is measured on a choice: a small set may have fewer."""

    coherence_blocks: int
    """Blocks of contexts and responses, chosen by a hash."""
    history_responses: int
    """Responses scored after their last 1, 2, 4 and 8 turns and those shuffled."""
    facts_per_type: int
    """Values of each type of fact that are planted, at every distance."""
    num_places: int
    """Places of the set where both models write a response."""
    num_call_places: int
    """Places besides where the data's assistant calls tools, written in once."""
    num_samplings: int
    """Seeds with which each response is sampled, besides the greedy one."""
    num_chats: int
    """Dialogues that each model goes on with by itself."""
    chat_turns: int
    """Turns that a model adds to each of these dialogues."""


PROFILES = {
    "smoke": Amounts(
        coherence_blocks=1,
        history_responses=4,
        facts_per_type=1,
        num_places=4,
        num_call_places=4,
        num_samplings=1,
        num_chats=1,
        chat_turns=4,
    ),
    "default": Amounts(
        coherence_blocks=4,
        history_responses=20,
        facts_per_type=4,
        num_places=60,
        num_call_places=60,
        num_samplings=3,
        num_chats=5,
        chat_turns=16,
    ),
    "full": Amounts(
        coherence_blocks=sys.maxsize,
        history_responses=sys.maxsize,
        facts_per_type=10,
        num_places=1000,
        num_call_places=1000,
        num_samplings=3,
        num_chats=50,
        chat_turns=16,
    ),
}
