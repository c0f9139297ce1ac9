"""All that is measured of one model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from stages.encoding.speakers import PlainText, SpeakerTokens, load_tokenizer
from stages.evaluation.coherence import score_coherence, summarise_ranks
from stages.evaluation.context import (
    history_gain_by_turns,
    score_histories,
    shuffled_history_gain,
)
from stages.evaluation.decoding import Sampling, write_replies
from stages.evaluation.generation import plan_continuations, samples_of
from stages.evaluation.measured import Measured
from stages.evaluation.packed_weights import pack_weights
from stages.evaluation.per_dialogue import (
    block_columns,
    model_columns,
    recall_columns,
    text_columns,
)
from stages.evaluation.perplexity import score_responses
from stages.evaluation.plain_text import all_bits_per_byte
from stages.evaluation.plan import Plan
from stages.evaluation.profile import PROFILES
from stages.evaluation.recall import recall_by_distance, score_recall
from stages.evaluation.response_scores import by_speaker, by_turn
from stages.evaluation.scoring import drop_rows_without_token, score_together
from stages.evaluation.writing import people_as_seen, plan_places, written_in
from stages.files import sha256_of, weights_sha256
from stages.params import ScoringParams
from stages.plain_model import load_plain_model

ROWS_PER_DIALOGUE = 8
"""Rows that write beside each other, per row of ``eval.batch_size``: one token of each fits
where a dialogue is scored."""


def measure(
    name: str,
    folder: Path,
    plan: Plan,
    settings: ScoringParams,
    *,
    seed: int,
) -> Measured:
    """Perplexity, context retention, coherence and writing of ``base`` or ``tuned``.

    Args:
        name: Which of them.
        folder: The model's.
        plan: What it is measured on.
        settings: How.
        seed: Of the first sampling.
    """
    dialogues, places, profile = plan.dialogues, plan.places, PROFILES[settings.profile]
    size = settings.batch_size
    model, template = load_model(folder, dialogue_tokens=name != "base")
    tokenizer = template.tokenizer

    shown = plan.shown if name == "tuned" else []  # the report shows what surprises that model
    scorings = (
        score_responses(template, dialogues),
        score_responses(template, dialogues, with_history=False),
        all_bits_per_byte(model.config, tokenizer, dialogues),
        score_histories(template, dialogues, num_responses=profile.history_responses),
        score_recall(template, dialogues, facts_per_type=profile.facts_per_type),
        people_as_seen(template, dialogues, shown),
        *([score_coherence(template, plan.blocks)] if plan.blocks else []),
    )
    scores, alone, all_bits, histories, recalled, people, *coherence = score_together(
        model, scorings, batch_size=size
    )
    columns = text_columns(scores, len(dialogues))
    columns |= model_columns(name, scores, alone, len(dialogues))
    columns |= recall_columns(name, recalled, len(dialogues))
    figures: dict[str, float | str] = {
        "template": "plain_text" if name == "base" else "speaker_tokens",
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "num_target_tokens": int(scores.num_tokens.sum()) + len(scores.turn),
        "all_bits_per_byte": all_bits,
        "shuffled_history_gain": shuffled_history_gain(histories),
    }
    for speaker, bits in by_speaker(scores, len(dialogues)).items():
        figures[f"bits_per_byte_speaker{speaker + 1}"] = bits
    for items in coherence:
        columns |= block_columns(name, items, len(dialogues))
        figures |= summarise_ranks(items)
    curves = {
        "turn": by_turn(scores, len(dialogues)),
        "num_turns": history_gain_by_turns(histories, len(dialogues)),
        "distance": recall_by_distance(recalled, len(dialogues)),
    }

    samplings = [
        Sampling(settings.temperature, settings.top_p, seed=seed + number)
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
    # Not before: scoring would be a twelfth faster and take 2 GB more, between whose logits of many
    # sizes the heap keeps what oneDNN stores for each shape.
    pack_weights(model)
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
    return Measured(columns, figures, curves, written, samples, people, weights_sha256(folder))


def load_model(
    folder: Path, *, dialogue_tokens: bool
) -> tuple[PreTrainedModel, PlainText | SpeakerTokens]:
    """The model in float32 on the GPU if there is one, ready to score, and how it reads turns.

    Args:
        folder: Of transformers' form.
        dialogue_tokens: Whether it was trained with them; the base model was not.

    Raises:
        UserError: a token of the model sees more than a mask shows it.
    """
    tokenizer = load_tokenizer(folder)
    model = load_plain_model(folder, device_map="cuda" if torch.cuda.is_available() else "cpu")
    drop_rows_without_token(model, tokenizer)
    return model, SpeakerTokens(tokenizer) if dialogue_tokens else PlainText(tokenizer)
