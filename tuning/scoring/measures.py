"""All that is measured of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tuning.dealing import load_among
from tuning.dialogue import Dialogue
from tuning.evaluation_set.amounts import PROFILES
from tuning.evaluation_set.places import Place
from tuning.evaluation_set.plan import Plan
from tuning.language_model.loading import load_plain_model, num_visible
from tuning.processes.group import Processes
from tuning.results.measured import Measured
from tuning.results.response_scores import NUM_ROUNDED, ROUNDING, bits_per_byte
from tuning.run.files import sha256_of, weights_sha256
from tuning.run.params import ScoreParams
from tuning.scoring.also import measure_also
from tuning.scoring.also_sets import AlsoSet
from tuning.scoring.coherence import measure_coherence
from tuning.scoring.context_turns import measure_context_turns
from tuning.scoring.history import measure_histories
from tuning.scoring.measure import Findings, Measure, Subject
from tuning.scoring.nats import both, score, together
from tuning.scoring.perplexity import measure_responses, score_responses
from tuning.scoring.plain_text import measure_plain_text
from tuning.scoring.recall import measure_recall
from tuning.scoring.with_example import measure_with_example
from tuning.scoring.written import people_as_seen, write_out
from tuning.tokens.template import Template

MEASURES: Final[tuple[Measure, ...]] = (
    measure_responses,
    measure_context_turns,
    measure_plain_text,
    measure_histories,
    measure_recall,
    measure_coherence,
    measure_with_example,
    measure_also,
)
"""Every measure of what a model predicts; another one is another row."""


def load_model(
    folder: Path,
    template: Template,
    dtype: Literal["float32", "bfloat16"] = "float32",
    *,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    in_parts: bool = False,
) -> PreTrainedModel:
    """Load a model, on the GPU if there is one, and ready to score.

    Args:
        folder: The model's folder.
        template: Its tokenizer says which rows of the vocabulary are of use.
        dtype: Type of its weights.
        processes: This process among those that score with it.
        in_parts: Whether each of them, if there are several, is to hold only a part.

    Raises:
        UserError: a token of the model sees more than a mask shows it.
    """

    def load(device: str) -> PreTrainedModel:
        model = load_plain_model(folder, dtype=getattr(torch, dtype), device_map=device)
        drop_rows_without_token(model, template.tokenizer)
        return model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_among(processes, load, device, in_parts=in_parts)


def measure(
    name: str,
    folder: Path,
    template: Template,
    plan: Plan,
    settings: ScoreParams,
    *,
    shown: list[Place],
    example: Dialogue | None,
    also: Sequence[AlsoSet],
    seed: int,
    load: Callable[..., PreTrainedModel] = load_model,
) -> Measured:
    """Measure perplexity, context retention, coherence, writing and calls of one model.

    Args:
        name: Begins the names of its columns.
        folder: The model's folder.
        template: The way in which it reads turns.
        plan: The text, blocks and places that it is measured on.
        settings: The profile, the batch size, and how the model writes.
        shown: Places where people's turns are wanted as the model reads them.
        example: A training dialogue behind which it reads the others once more, if it is to.
        also: Further evaluation sets.
        seed: Seed of the first sampling.
        load: Loads the model as ``load_model`` does.
    """
    model = load(folder, template)
    rounding: dict[str, float | str] = {}
    if settings.dtype != "float32":
        sample = plan.dialogues[:NUM_ROUNDED]
        exact = _bits_per_byte(model, template, sample, settings.batch_size)
        model = load(folder, template, settings.dtype)
        rounded = _bits_per_byte(model, template, sample, settings.batch_size)
        rounding = {ROUNDING: rounded - exact}
    subject = Subject(
        name=name,
        template=template,
        num_visible=num_visible(model.config),
        plan=plan,
        amounts=PROFILES[settings.profile],
        example=example,
        also=also,
    )
    found, people = score(
        model,
        both(
            together([ask(subject) for ask in MEASURES]),
            people_as_seen(template, plan.dialogues, shown),
        ),
        batch_size=settings.batch_size,
    )
    written, chats, calls = write_out(model, subject, settings, seed=seed)
    everything = Findings()
    for one in (*found, calls):
        everything.columns.update(one.columns)
        everything.figures.update(one.figures)
        everything.curves.update(one.curves)
        everything.also.update(one.also)
    return Measured(
        columns=everything.columns,
        figures={
            "template": template.name,
            "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
            **rounding,
            **everything.figures,
        },
        curves=everything.curves,
        also=everything.also,
        written=written,
        chats=chats,
        people=people,
        weights_sha256=weights_sha256(folder),
        not_encodable=plan.not_encodable,
    )


def _bits_per_byte(
    model: PreTrainedModel, template: Template, dialogues: Sequence[Dialogue], batch_size: int
) -> float:
    """Score the responses of some dialogues, and nothing else."""
    scores = score(model, score_responses(template, dialogues), batch_size=batch_size)
    return bits_per_byte(scores.content_nll, scores.num_bytes)


def drop_rows_without_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Cut the vocabulary of a model, in place, to the ids that its tokenizer has.

    Some models pad it to a round number (Qwen 2.5: 151,936 rows for 151,665 tokens). No text holds
    the other ids, so what the softmax gives them, trained or not, would be missing from the real
    ones. The tokenizer's own stay, dialogue tokens that were added included: they only widen the
    softmax, so they can make a text dearer, never cheaper.
    """
    num_ids = max(tokenizer.get_vocab().values()) + 1
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    if num_ids < len(weight):
        model.resize_token_embeddings(num_ids)
