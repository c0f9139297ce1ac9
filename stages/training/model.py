"""The model that training starts from: the base model and rows for the dialogue tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from stages.encoding.speakers import (
    END_OF_TURN,
    PAD,
    PlainText,
    load_tokenizer,
    speaker_token,
)
from stages.files import new_folder


def load_for_training(base: Path, tokenizer_folder: Path) -> PreTrainedModel:
    """The base model in float32, its embeddings extended to the tokenizer's dialogue tokens.

    A new row is the mean of the old rows of what it stands for in plain text: ``<|speaker1|>`` of
    the tokens of ``A:``, ``<|endofturn|>`` of a line end, ``<|pad|>`` of the whole vocabulary. The
    mean of the vocabulary for all of them would make the end of a turn so unlikely (14 nats after
    the seed recipe's first 15 steps) that a short fine-tuning never learns to stop. Old rows keep
    their values and tied embeddings stay tied.
    """
    old, new = load_tokenizer(base), load_tokenizer(tokenizer_folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    if len(new) > len(_weight(model.get_input_embeddings())):
        model.resize_token_embeddings(len(new), mean_resizing=False)
    plain = PlainText(old)
    stands_for = {PAD: list(range(len(old))), END_OF_TURN: plain.end} | {
        speaker_token(index): plain.tag(index) for index in range(len(new) - len(old))
    }
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for values in (_weight(layer), getattr(layer, "bias", None)):
                if values is not None:
                    for row in range(len(old), len(new)):
                        like = stands_for[str(new.convert_ids_to_tokens(row))]
                        values[row] = values[like].mean(dim=0)
    model.config.use_cache = False
    return model


def _weight(layer: nn.Module) -> Tensor:
    """``[V, H]``, a row per token."""
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def publish(model: PreTrainedModel, tokenizer_folder: Path, target: Path) -> None:
    """Write a complete transformers folder: weights, config, tokenizer, generation settings.

    Generation ends at ``<|endofturn|>``; padding is ``<|pad|>``. The same weights give the same
    bytes: no optimizer pickles, no paths.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    model.config.use_cache = True
    model.config._name_or_path = ""
    for config in (model.config, model.generation_config):
        if config is not None:
            config.eos_token_id = end_of_turn
            config.pad_token_id = pad
    with new_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for weights in folder.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes 0600
