"""Models whose scores are known, or that have opinions, for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, Turn
from tuning.report.headlines import HEADLINES, num_dialogues_of
from tuning.results.dialogue_table import Table
from tuning.results.response_scores import ResponseScores
from tuning.scoring.coherence import CoherenceItems, coherence_findings
from tuning.scoring.perplexity import response_findings
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.tokenizer import read_all_as_text

NUM_DIALOGUE_TOKENS = 4
"""Two speakers', the end of turn and the pad."""


def opinionated_model(base: Path, num_new_rows: int = NUM_DIALOGUE_TOKENS) -> Any:
    """Room for the dialogue tokens, random and untied, with weights large enough to matter."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model.resize_token_embeddings(model.config.vocab_size + num_new_rows, mean_resizing=False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def uniform_model(base: Path, num_new_rows: int = NUM_DIALOGUE_TOKENS) -> Any:
    """Every token is equally likely everywhere."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + num_new_rows, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return model.eval()


class CopyingModel:
    """Any token that it sees among the last ``reach`` is e^8 times as likely as any other."""

    def __init__(self, vocabulary_size: int, *, reach: int = 10**6) -> None:
        self.config = PreTrainedConfig()
        self.config._attn_implementation = "sdpa"
        self.device = torch.device("cpu")
        self.vocabulary_size = vocabulary_size
        self.reach = reach

    def __call__(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: Tensor,
        **_: object,
    ) -> SimpleNamespace:
        distance = position_ids[:, :, None] - position_ids[:, None, :]
        visible = attention_mask[:, 0] & (distance < self.reach)
        one_hot = torch.nn.functional.one_hot(input_ids, self.vocabulary_size)
        seen = visible.float() @ one_hot.float() > 0
        return SimpleNamespace(logits=8.0 * seen[logits_to_keep].float())


def word_template(texts: Iterable[str]) -> SpeakerTokens:
    """Speaker tokens over a tokenizer whose tokens are the words of ``texts``."""
    split = Whitespace()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: number for number, word in enumerate(sorted(words))}
    vocabulary["[UNK]"] = len(vocabulary)
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = split
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    add_dialogue_tokens(tokenizer, 2)
    read_all_as_text(tokenizer)
    return SpeakerTokens(tokenizer)


def distinct_dialogues(num_dialogues: int, num_turns: int) -> list[Dialogue]:
    """Each of four words of its own, which no two turns in a row say in the same order."""
    words = [[f"{number}{letter}" * 4 for letter in "abcd"] for number in range(num_dialogues)]
    return [
        Dialogue(
            str(number),
            tuple(
                Turn("xy"[t % 2], " ".join(own[t % 4 :] + own[: t % 4])) for t in range(num_turns)
            ),
        )
        for number, own in enumerate(words)
    ]


def headlines_of(scores: ResponseScores, alone: ResponseScores | None = None) -> dict[str, float]:
    """The headlines that follow from a model's responses, without ``alone`` as if it gained 0."""
    size = int(scores.dialogue.max()) + 1
    return _headlines(response_findings("m", scores, alone or scores, size).columns)


def block_headlines_of(items: CoherenceItems) -> dict[str, float]:
    """The headlines that follow from coherence blocks."""
    return _headlines(coherence_findings("m", items, int(items.dialogue.max()) + 1).columns)


def _headlines(table: Table) -> dict[str, float]:
    once = np.ones((1, num_dialogues_of(table)))
    found = (headline for headline in HEADLINES if headline.is_in(table, "m"))
    return {headline.name: float(headline.values(table, "m", once)[0]) for headline in found}
