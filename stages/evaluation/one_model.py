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
from stages.evaluation.decoding import Sampling
from stages.evaluation.dialogue_table import Column
from stages.evaluation.generation import Sample, continue_dialogues
from stages.evaluation.per_dialogue import block_columns, model_columns, recall_columns
from stages.evaluation.perplexity import ResponseScores, by_speaker, by_turn, score_responses
from stages.evaluation.plain_text import all_bits_per_byte
from stages.evaluation.profile import PROFILES
from stages.evaluation.recall import recall_by_distance, score_recall
from stages.evaluation.report_page import ScoredText
from stages.evaluation.scoring import drop_rows_without_token
from stages.evaluation.writing import Place, Written, people_as_seen, write_in_places
from stages.files import sha256_of
from stages.params import Params

ROWS_PER_DIALOGUE = 16
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
    curves: dict[str, dict[int, float]]
    """Bits per byte by ``turn``, history gain by ``num_turns``, recall by ``distance``."""
    written: Written
    """What it wrote in the places."""
    chats: list[Sample]
    """Dialogues that it went on with by itself."""
    people: list[ScoredText]
    """What people wrote in the first places, and how it surprises the model."""


def measure(
    name: str,
    folder: Path,
    dialogues: Sequence[Dialogue],
    blocks: Sequence[Block],
    places: Sequence[Place],
    *,
    num_shown: int,
    params: Params,
) -> Measured:
    """Perplexity, context retention, coherence and writing of ``base`` or ``tuned``."""
    settings, profile = params.eval, PROFILES[params.eval.profile]
    size = settings.batch_size
    tokenizer = load_tokenizer(folder)
    model = load_model(folder)
    drop_rows_without_token(model, tokenizer)
    template = PlainText(tokenizer) if name == "base" else SpeakerTokens(tokenizer)

    scores = score_responses(model, template, dialogues, batch_size=size)
    alone = score_responses(model, template, dialogues, batch_size=size, with_history=False)
    columns = model_columns(name, scores, alone, len(dialogues))
    figures: dict[str, float | str] = {
        "template": "plain_text" if name == "base" else "speaker_tokens",
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "num_target_tokens": int(scores.num_tokens.sum()) + len(scores.turn),
        "all_bits_per_byte": all_bits_per_byte(model, tokenizer, dialogues, batch_size=size),
    }
    for speaker, bits in by_speaker(scores).items():
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
        "turn": by_turn(scores),
        "num_turns": history_gain_by_turns(histories),
        "distance": recall_by_distance(recalled),
    }

    samplings = [
        Sampling(settings.temperature, settings.top_p, seed=params.seed + number)
        for number in range(profile.num_samplings)
    ]
    rows = ROWS_PER_DIALOGUE * size
    written = write_in_places(
        model,
        template,
        dialogues,
        places,
        samplings=samplings,
        max_new_tokens=settings.max_new_tokens,
        batch_size=rows,
    )
    chats = continue_dialogues(
        model,
        template,
        dialogues,
        num_samples=profile.num_chats,
        prompt_turns=settings.prompt_turns,
        reply_turns=profile.chat_turns,
        max_new_tokens=settings.max_new_tokens,
        batch_size=rows,
        sampling=samplings[0],
    )
    people = people_as_seen(model, template, dialogues, places[:num_shown], batch_size=size)
    return Measured(scores, columns, figures, curves, written, chats, people)


def load_model(folder: Path) -> PreTrainedModel:
    """The model in float32 on the GPU if there is one, ready to score."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        device_map="cuda" if torch.cuda.is_available() else "cpu",
    )
    return model
