"""The model that training starts from: the base model and rows for the template's new tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuning.language_model.loading import load_plain_model, num_visible
from tuning.run.errors import UserError
from tuning.template_record import read_record


def load_for_training(base: Path, tokenizer_folder: Path, max_length: int) -> PreTrainedModel:
    """Load the base model in float32 and extend its embeddings to the template's new tokens.

    A new row is the mean of the old rows that the template's record, beside the tokenizer, names
    for it. Old rows keep their values and tied embeddings stay tied.

    Raises:
        UserError: in this model a token does not simply see every one before it in its row.
    """
    record = read_record(tokenizer_folder)
    assert record is not None, "encode writes it"
    model = load_plain_model(base)
    span = num_visible(model.config)
    if span < max_length:
        raise UserError(
            f"encoding.max_length: a token of this model sees only {span} tokens; set it to "
            f"{span} or less (found {max_length})."
        )
    num_tokens = record.num_base_tokens + len(record.new_rows)
    if num_tokens > len(_weight(model.get_input_embeddings())):
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    every_token = list(range(record.num_base_tokens))
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for values in (_weight(layer), getattr(layer, "bias", None)):
                if values is not None:
                    for row, like in enumerate(record.new_rows, start=record.num_base_tokens):
                        values[row] = values[like or every_token].mean(dim=0)
    model.config.use_cache = False
    return model


def embedding_weights(model: PreTrainedModel) -> set[Tensor]:
    """Return the weights ``[V, H]`` with a row per token: one where they are tied, else two."""
    return {_weight(model.get_input_embeddings()), _weight(model.get_output_embeddings())}


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight
