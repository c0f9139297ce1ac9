"""Models small enough to train in a test: two layers, a BPE made on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from stages.files import write_json
from stages.params import LoraParams, TrainParams

END_OF_TEXT = "<|endoftext|>"
MAX_POSITIONS = 1024

SMALL_TRAIN = TrainParams(
    learning_rate=1e-2,
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
    lora=LoraParams(rank=None, alpha=32, targets="all-linear"),
    torch_compile=False,
    num_threads=1,
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
    folder: Path, texts: Iterable[str], *, seed: int = 0, like_llama_3: bool = False
) -> None:
    """Write a random Llama of sixteen dimensions, and the tokenizer of ``make_tiny_gpt2``.

    It differs where models do: rotary positions, four heads that share two keys and values, no
    biases, a head that is not tied to the embeddings. A tokenizer ``like_llama_3`` begins every
    text with a token, and has some that hold a punctuation mark and the end of its line.
    """
    bpe = _write_tokenizer(folder, texts, like_llama_3=like_llama_3)
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    write_json(
        folder / "tokenizer_config.json",
        {"model_max_length": MAX_POSITIONS}
        | (
            {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            if like_llama_3
            else {"tokenizer_class": "GPT2Tokenizer"}
        ),
    )
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=32,
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


def _write_tokenizer(
    folder: Path, texts: Iterable[str], *, like_llama_3: bool = False
) -> Tokenizer:
    """A byte-level BPE of at most 400 tokens learned from ``texts``.

    Like GPT-2's, it has one special token, which begins, ends and stands for the unknown.
    """
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    if like_llama_3:
        words = Regex(r" ?\p{L}+| ?[^\s\p{L}]+\n*|\s+")
        bpe.pre_tokenizer = Sequence([Split(words, "isolated"), ByteLevel(False, use_regex=False)])
    bpe.decoder = ByteLevelDecoder()
    bpe.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=400,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if like_llama_3:
        first = (END_OF_TEXT, bpe.token_to_id(END_OF_TEXT))
        bpe.post_processor = TemplateProcessing(f"{END_OF_TEXT} $A", special_tokens=[first])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    return bpe
