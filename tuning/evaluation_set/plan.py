"""The plan of an evaluation: the text, blocks and places that all models are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuning.dialogue import Dialogue, read_dialogues
from tuning.evaluation_set.amounts import PROFILES
from tuning.evaluation_set.blocks import Block, make_blocks
from tuning.evaluation_set.places import Place, choose_call_places, choose_places
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.run.errors import UserError
from tuning.run.params import ScoreParams

NUM_SHOWN = 6
"""Places that the report shows side by side."""


@dataclass(frozen=True)
class Plan:
    """The evaluation set, and what is chosen of it."""

    dialogues: list[Dialogue]
    num_left_out: int
    """Validation dialogues without a response that fits."""
    not_encodable: list[str]
    """Ids of validation dialogues left out since the models' tokenizer changes their text."""
    blocks: list[Block]
    """The blocks that coherence is measured on."""
    places: list[Place]
    """The places where the models write."""
    call_places: list[Place]
    """Places where the data's assistant calls tools, and the models write once more."""

    @property
    def shown(self) -> Sequence[Place]:
        """The places that the report shows."""
        return self.places[:NUM_SHOWN]


def has_roles(validation: Path) -> bool:
    """Tell whether any turn of the validation dialogues is a role's."""
    return any(turn.role for dialogue in read_dialogues(validation) for turn in dialogue.turns)


def read_example(
    path: Path, settings: ScoreParams, loss_on: str | Sequence[str]
) -> Dialogue | None:
    """Read the dialogue that is an example, as far as others are scored, if it has responses."""
    cut, _ = cut_evaluation_set(
        read_dialogues(path),
        max_dialogues=1,
        max_turns=settings.max_turns,
        max_bytes=settings.max_bytes,
        loss_on=loss_on,
    )
    return cut[0] if cut else None


def make_plan(
    validation: Path,
    settings: ScoreParams,
    loss_on: str | Sequence[str],
    is_encodable: Callable[[Dialogue], bool],
) -> Plan:
    """Cut the validation dialogues and choose blocks and places by hashes of the text alone.

    Args:
        validation: The validation dialogues.
        settings: How much of them is measured on.
        loss_on: Which turns are trained, and so are responses.
        is_encodable: Whether the models' tokenizer gives a dialogue back. One that it changes is
            left out: the bytes that its nats are divided by would not be those that were read.


    Raises:
        UserError: no dialogue has a response that fits.
    """
    not_encodable: list[str] = []

    def encodable() -> Iterator[Dialogue]:
        for dialogue in read_dialogues(validation):
            if is_encodable(dialogue):
                yield dialogue
            else:
                not_encodable.append(dialogue.dialogue_id)

    dialogues, num_left_out = cut_evaluation_set(
        encodable(),
        max_dialogues=settings.max_dialogues,
        max_turns=settings.max_turns,
        max_bytes=settings.max_bytes,
        loss_on=loss_on,
    )
    if not dialogues and not_encodable:
        raise UserError(
            f"{validation}: the model's tokenizer changes the text of {len(not_encodable):,} "
            f"dialogues, and no other has a response to score. Take another base model with "
            "model.name, or bring more dialogues."
        )
    if not dialogues:
        raise UserError(
            f"{validation}: no dialogue has a response (a trained turn behind another) within "
            "score.max_turns and score.max_bytes; raise them."
        )
    profile = PROFILES[settings.profile]
    return Plan(
        dialogues,
        num_left_out,
        not_encodable,
        make_blocks(
            dialogues,
            num_candidates=settings.coherence_candidates,
            max_blocks=profile.coherence_blocks,
        ),
        choose_places(dialogues, prompt_turns=settings.prompt_turns, num_places=profile.num_places),
        choose_call_places(dialogues, num_places=profile.num_call_places),
    )
