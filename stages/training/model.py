"""The model that training starts from: the base model and rows for the dialogue tokens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stages.encoding.speakers import (
    END_OF_TURN,
    PAD,
    PlainText,
    load_tokenizer,
    speaker_token,
    special_ids,
)
from stages.errors import UserError
from stages.files import new_folder
from stages.params import LoraParams
from stages.plain_model import load_plain_model, num_visible


def load_for_training(base: Path, tokenizer_folder: Path, max_length: int) -> PreTrainedModel:
    """The base model in float32, its embeddings extended to the tokenizer's dialogue tokens.

    A new row is the mean of the old rows of what it stands for in plain text: ``<|speaker1|>`` of
    the tokens of ``A:``, ``<|endofturn|>`` of a line end, ``<|pad|>`` of the whole vocabulary. The
    mean of the vocabulary for all of them would make the end of a turn so unlikely (14 nats after
    the seed recipe's first 15 steps) that a short fine-tuning never learns to stop. Old rows keep
    their values and tied embeddings stay tied.

    Raises:
        UserError: in this model a token does not simply see every one before it in its row.
    """
    old, new = load_tokenizer(base), load_tokenizer(tokenizer_folder)
    model = load_plain_model(base)
    span = num_visible(model.config)
    if span < max_length:
        raise UserError(
            f"encoding.max_length: a token of this model sees only {span} tokens; set it to "
            f"{span} or less (found {max_length})."
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


@contextmanager
def as_generator(model: PreTrainedModel) -> Iterator[None]:
    """Let a model in training write text: nothing compiled, no dropout, with a cache."""
    attention, was_training = model.config._attn_implementation, model.training
    model.eval()
    model.set_attn_implementation("sdpa")
    model.config.use_cache = True
    try:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield
    finally:
        model.config.use_cache = False
        model.set_attn_implementation(attention)
        model.train(was_training)


def add_adapters(model: PreTrainedModel, lora: LoraParams, num_old_tokens: int) -> PeftModel:
    """Freeze the model but for low-rank adapters and the embeddings of the new tokens.

    Args:
        model: Changed in place.
        lora: With a rank.
        num_old_tokens: Rows of the embeddings that stay as they are.

    Returns:
        What ``merge_and_unload`` is called on in the end.

    Raises:
        UserError: the model has no layer of a name in ``lora.targets``.
    """
    targets = lora.targets
    assert lora.rank is not None
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # a float does
        target_modules=targets if targets == "all-linear" else targets.replace(" ", "").split(","),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks for what transformers is about to rename, and reports that GPT-2's layers
            # are transposed, which it takes care of.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            adapted = get_peft_model(model, settings)
    except ValueError as error:
        layers = (n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D))
        names = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise UserError(
            f"train.lora.targets: found {targets!r}; wanted all-linear, or some of "
            f"{', '.join(names)}."
        ) from error
    assert isinstance(adapted, PeftModel)

    def keep_old_rows(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[:num_old_tokens] = 0
        return gradient

    for weight in {_weight(model.get_input_embeddings()), _weight(model.get_output_embeddings())}:
        weight.requires_grad_(True)
        weight.register_hook(keep_old_rows)  # type: ignore[no-untyped-call]
    return adapted


def publish(
    model: PreTrainedModel,
    tokenizer_folder: Path,
    target: Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a complete transformers folder: weights, config, tokenizer, generation settings.

    ``weights`` stand in for the model's own, of which a process may hold only a part.

    Generation ends at ``<|endofturn|>``, or at another special token, as no turn holds one; padding
    is ``<|pad|>``. The same weights give the same bytes: no optimizer pickles, no paths.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    model.set_attn_implementation("sdpa")
    model.config.use_cache = True
    model.config._name_or_path = ""
    for config in (model.config, model.generation_config):
        if config is not None:
            config.eos_token_id = end_of_turn
            config.pad_token_id = pad
    others = sorted(set(special_ids(tokenizer)) - {end_of_turn})
    if model.generation_config is not None:
        model.generation_config.eos_token_id = [end_of_turn, *others]
    with new_folder(target) as folder:
        model.save_pretrained(folder, state_dict=dict(weights) if weights else None)
        tokenizer.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes 0600
