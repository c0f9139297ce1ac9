"""All that is measured of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from stages.corpus.dialogue import Dialogue
from stages.encoding.speakers import PlainText, SpeakerTokens, load_tokenizer
from stages.evaluation.blocks import Block
from stages.evaluation.coherence import score_coherence, summarise_ranks
from stages.evaluation.context import (
    history_gain_by_turns,
    score_histories,
    shuffled_history_gain,
)
from stages.evaluation.curves import Curve
from stages.evaluation.decoding import Sampling, write_replies
from stages.evaluation.dialogue_table import Column
from stages.evaluation.generation import Sample, plan_continuations, samples_of
from stages.evaluation.per_dialogue import block_columns, model_columns, recall_columns
from stages.evaluation.perplexity import ResponseScores, by_speaker, by_turn, score_responses
from stages.evaluation.plain_text import all_bits_per_byte
from stages.evaluation.profile import PROFILES
from stages.evaluation.recall import recall_by_distance, score_recall
from stages.evaluation.report_page import ScoredText
from stages.evaluation.scoring import drop_rows_without_token
from stages.evaluation.writing import Place, Written, people_as_seen, plan_places, written_in
from stages.files import sha256_of
from stages.params import Params

ROWS_PER_DIALOGUE = 8
"""Rows that write beside each other, per dialogue of ``eval.batch_size``: one token of each fits
where a dialogue is scored."""


@dataclass(frozen=True)
class Measured:
    """What one model was found to do on the evaluation set."""

    scores: ResponseScores
    columns: dict[str, Column]
    """Its sums per dialogue, from which the headlines follow."""
    figures: dict[str, float | str]
    """What is no headline, by its name in the metrics file."""
    curves: dict[str, Curve]
    """Bits per byte by ``turn``, history gain by ``num_turns``, recall by ``distance``."""
    written: Written
    """What it wrote in the places."""
    chats: list[Sample]
    """Dialogues that it went on with by itself."""
    people: list[ScoredText]
    """What people wrote in the places that are shown, and how it surprises the model."""


def measure(
    name: str,
    folder: Path,
    dialogues: Sequence[Dialogue],
    blocks: Sequence[Block],
    places: Sequence[Place],
    shown: Sequence[Place],
    *,
    params: Params,
) -> Measured:
    """Perplexity, context retention, coherence and writing of ``base`` or ``tuned``.

    Args:
        name: Which of them.
        folder: The model's.
        dialogues: The evaluation set.
        blocks: What coherence is measured on.
        places: Where the model writes.
        shown: Where people's words are scored, to be looked at.
        params: All of them.
    """
    settings, profile = params.eval, PROFILES[params.eval.profile]
    size = settings.batch_size
    model, template = load_model(folder, dialogue_tokens=name != "base")
    tokenizer = template.tokenizer

    scores = score_responses(model, template, dialogues, batch_size=size)
    alone = score_responses(model, template, dialogues, batch_size=size, with_history=False)
    columns = model_columns(name, scores, alone, len(dialogues))
    figures: dict[str, float | str] = {
        "template": "plain_text" if name == "base" else "speaker_tokens",
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "num_target_tokens": int(scores.num_tokens.sum()) + len(scores.turn),
        "all_bits_per_byte": all_bits_per_byte(model, tokenizer, dialogues, batch_size=size),
    }
    for speaker, bits in by_speaker(scores, len(dialogues)).items():
        figures[f"bits_per_byte_speaker{speaker + 1}"] = bits
    if blocks:
        items = score_coherence(model, template, blocks, batch_size=size)
        columns |= block_columns(name, items, len(dialogues))
        figures |= summarise_ranks(items)
    histories = score_histories(
        model,
        template,
        dialogues,
        scores,
        alone,
        num_responses=profile.history_responses,
        batch_size=size,
    )
    figures["shuffled_history_gain"] = shuffled_history_gain(histories)
    recalled = score_recall(
        model, template, dialogues, facts_per_type=profile.facts_per_type, batch_size=size
    )
    columns |= recall_columns(name, recalled, len(dialogues))
    curves = {
        "turn": by_turn(scores, len(dialogues)),
        "num_turns": history_gain_by_turns(histories, len(dialogues)),
        "distance": recall_by_distance(recalled, len(dialogues)),
    }

    samplings = [
        Sampling(settings.temperature, settings.top_p, seed=params.seed + number)
        for number in range(profile.num_samplings)
    ]
    in_places = plan_places(template, dialogues, places, samplings)
    chats = plan_continuations(
        template,
        dialogues,
        num_samples=profile.num_chats,
        prompt_turns=settings.prompt_turns,
        reply_turns=profile.chat_turns,
        sampling=samplings[0],
    )
    # Chats take many passes of few rows: all that is written side by side fills them.
    replies = write_replies(
        model,
        template,
        [*in_places, *(chat.request for chat in chats)],
        max_new_tokens=settings.max_new_tokens,
        batch_size=ROWS_PER_DIALOGUE * size,
    )
    written = written_in(template, dialogues, places, replies[: len(in_places)])
    samples = samples_of(template, chats, replies[len(in_places) :])
    people = people_as_seen(model, template, dialogues, shown, batch_size=size)
    return Measured(scores, columns, figures, curves, written, samples, people)


def load_model(
    folder: Path, *, dialogue_tokens: bool
) -> tuple[PreTrainedModel, PlainText | SpeakerTokens]:
    """The model in float32 on the GPU if there is one, ready to score, and how it reads turns.

    Args:
        folder: Of transformers' form.
        dialogue_tokens: Whether it was trained with them; the base model was not.
    """
    tokenizer = load_tokenizer(folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        device_map="cuda" if torch.cuda.is_available() else "cpu",
    )
    drop_rows_without_token(model, tokenizer)
    return model, SpeakerTokens(tokenizer) if dialogue_tokens else PlainText(tokenizer)
