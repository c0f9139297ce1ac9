"""Models small enough to train in a test: two layers, a BPE made on the spot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from tuning.run.files import write_json
from tuning.run.params import LoraParams, TrainParams

END_OF_TEXT = "<|endoftext|>"
MAX_POSITIONS = 1024
Like = Literal["gpt2", "llama2", "llama3"]
"""Whose tokenizer."""

SMALL_TRAIN = TrainParams(
    learning_rate=1e-2,
    optimizer="adamw",
    weights="float32",
    batch_size=2,
    gradient_accumulation_steps=2,
    epochs=2,
    max_steps=None,
    mixed_precision="no",
    lr_scheduler_type="linear",
    warmup_steps=0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    packing=True,
    gradient_checkpointing=False,
    eval_steps=None,
    eval_windows=4,
    load_best_model_at_end=False,
    early_stopping_patience=None,
    lora=LoraParams(
        rank=None,
        alpha=32,
        targets="all-linear",
        use_rslora=False,
        use_dora=False,
        quantization=None,
    ),
    torch_compile=False,
)
"""Hyperparameters for them, which a test changes where it matters."""


def make_tiny_gpt2(
    folder: Path, texts: Iterable[str], *, seed: int = 0, dropout: float = 0.0
) -> None:
    """Write a random GPT-2 of eight dimensions and a tokenizer learned from ``texts``.

    The same texts and seed give the same bytes.
    """
    bpe = _write_tokenizer(folder, texts)
    # As in GPT-2's own repository, config.json alone says that this is a GPT2Tokenizer.
    write_json(folder / "tokenizer_config.json", {"model_max_length": MAX_POSITIONS})
    config = GPT2Config(
        n_layer=2,
        n_embd=8,
        n_head=2,
        n_positions=MAX_POSITIONS,
        vocab_size=bpe.get_vocab_size(),
        bos_token_id=bpe.token_to_id(END_OF_TEXT),
        eos_token_id=bpe.token_to_id(END_OF_TEXT),
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    _write_weights(folder, config, seed)


def make_tiny_llama(
    folder: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    like: Like = "gpt2",
    hidden_size: int = 16,
) -> None:
    """Write a random Llama of so many dimensions, and a tokenizer of the kind of ``like``.

    It differs from GPT-2 where models do: rotary positions, four heads that share two keys and
    values, no biases, a head that is not tied to the embeddings.
    """
    bpe = _write_tokenizer(folder, texts, like)
    write_json(
        folder / "tokenizer_config.json",
        {"model_max_length": MAX_POSITIONS, "tokenizer_class": "GPT2Tokenizer"}
        if like == "gpt2"
        else {
            "model_max_length": MAX_POSITIONS,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
        },
    )
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        vocab_size=bpe.get_vocab_size(),
        bos_token_id=bpe.token_to_id(END_OF_TEXT),
        eos_token_id=bpe.token_to_id(END_OF_TEXT),
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    _write_weights(folder, config, seed)


def lose_character(folder: Path, character: str) -> None:
    """Make a base model's tokenizer drop a character from every text."""
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.normalizer = Replace(character, "")
    tokenizer.save(str(file))
    # GPT2Tokenizer would make its own of the vocabulary.
    names = {"model_max_length": MAX_POSITIONS, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", names)


@torch.no_grad()
def enlarged(model: PreTrainedModel) -> PreTrainedModel:
    """With sharp attention and logits: random weights at their beginning make both uniform."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(10)
    return model


def _write_weights(folder: Path, config: PreTrainedConfig, seed: int) -> None:
    """Draw the weights, leaving the global random state as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)


def _write_tokenizer(folder: Path, texts: Iterable[str], like: Like = "gpt2") -> Tokenizer:
    """A BPE of at most 400 tokens learned from ``texts``.

    Like GPT-2's, it has one special token, which begins, ends and stands for the unknown. Unlike
    GPT-2's, the others begin every text with it. Llama 3's has tokens of a punctuation mark and the
    end of its line; Llama 2's puts a space before every text, and spells some characters in bytes.
    """
    bpe = Tokenizer(BPE())
    alphabet = sorted(ByteLevel.alphabet())
    if like == "gpt2":
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    elif like == "llama3":
        words = Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+\n*|\s+"), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([words, ByteLevel(False, use_regex=False)])
    else:
        bpe.normalizer = normalizers.Sequence([Prepend("▁"), Replace(" ", "▁")])
        bpe.pre_tokenizer = Split("▁", "merged_with_next")
        alphabet = []
        texts = [text.replace("\n", "") for text in texts]
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=400 if alphabet else 144,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    if like == "llama2":
        learned = json.loads(bpe.to_str())
        words_and_bytes = bpe.get_vocab()
        for byte in range(256):
            words_and_bytes[f"<0x{byte:02X}>"] = len(words_and_bytes)
        merges = [  # as SentencePiece joins: whatever two pieces are a third
            (piece[:cut], piece[cut:])
            for piece in sorted(words_and_bytes, key=words_and_bytes.__getitem__)
            for cut in range(1, len(piece))
            if piece[:cut] in words_and_bytes and piece[cut:] in words_and_bytes
        ]
        learned["model"] |= {"vocab": words_and_bytes, "merges": merges, "byte_fallback": True}
        learned["pre_tokenizer"] = None
        bpe = Tokenizer.from_str(json.dumps(learned))
        bpe.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    if like != "gpt2":
        first = (END_OF_TEXT, bpe.token_to_id(END_OF_TEXT))
        bpe.post_processor = TemplateProcessing(f"{END_OF_TEXT} $A", special_tokens=[first])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    return bpe
