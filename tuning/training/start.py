"""The model that training starts from: the base model and rows for the template's new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from tuning.language_model.device import Device
from tuning.language_model.loading import load_plain_model, num_visible, own_dtype
from tuning.run.errors import UserError
from tuning.template_record import read_record
from tuning.training.lora import without_rows
from tuning.training.loss import has_plain_head

if TYPE_CHECKING:
    from tuning.run.params import TrainParams


def load_for_training(
    base: Path,
    tokenizer_folder: Path,
    max_length: int,
    *,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """Load the base model and extend its embeddings to the template's new tokens.

    A new row is the mean of the old rows that the template's record, beside the tokenizer, names
    for it. Old rows keep their values and tied embeddings stay tied.

    Args:
        base: A model in transformers' form.
        tokenizer_folder: What encode left, with the template's record.
        max_length: Tokens of a row.
        dtype: Type of the weights.
        device_map: Where they go; the CPU by default.
        quantization: How the linear layers' weights are kept in fewer bits.

    Raises:
        UserError: a window may have more tokens than the model has positions.
    """
    record = read_record(tokenizer_folder)
    assert record is not None, "encode writes it"
    model = load_plain_model(base, dtype=dtype, device_map=device_map, quantization=quantization)
    span = num_visible(model.config)
    if span < max_length:
        raise UserError(
            f"encoding.max_length: this model has only {span} positions; set it to {span} or less "
            f"(found {max_length})."
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
    has_plain_head(model)  # asked now: later, a process may hold only a part of it
    return model


def weights_dtype(base: Path, train: TrainParams, device: Device) -> torch.dtype:
    """Return the type of the weights that training holds.

    Those of full fine-tuning are ``train.weights``. Frozen ones beside adapters stay as the base
    model has them where products are computed in that type, too.
    """
    if train.lora.rank is None:
        return torch.bfloat16 if train.weights == "bfloat16" else torch.float32
    dtype = own_dtype(base)
    return dtype if dtype == device.dtype else torch.float32


def embedding_weights(model: PreTrainedModel) -> set[Tensor]:
    """Return the weights ``[V, H]`` with a row per token: one where they are tied, else two."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return {_weight(without_rows(layer)) for layer in layers}


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight
