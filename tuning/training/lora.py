"""Low-rank adapters (Hu et al. 2021) beside frozen weights, and the new tokens' rows.

PEFT takes seconds to load, so it is loaded where there are adapters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.run.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

    from tuning.run.params import LoraParams


def add_adapters(model: PreTrainedModel, lora: LoraParams, new_tokens: Sequence[int]) -> PeftModel:
    """Freeze the model but for low-rank adapters and the rows of new tokens, both in float32.

    Args:
        model: Changed in place.
        lora: With a rank.
        new_tokens: Ids whose rows, of embeddings and head, are trained, too.

    Returns:
        The model with adapters; its ``merge_and_unload`` is called in the end.

    Raises:
        UserError: the model has no layer of a name in ``lora.targets``, or an embedding or head of
            a kind of which single rows cannot be trained.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = lora.targets
    assert lora.rank is not None
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # a float does
        target_modules=targets if targets == "all-linear" else targets.replace(" ", "").split(","),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        task_type="CAUSAL_LM",
        trainable_token_indices=_rows(model, new_tokens),
    )
    before = _some_logits(model)
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
    # PEFT takes an embedding for a lookup, and a head for a product without a bias.
    if not torch.allclose(_some_logits(model), before, rtol=1e-2, atol=1e-2 * float(before.std())):
        raise UserError(
            "train.lora.rank: the rows of new tokens cannot be trained beside this model's "
            "frozen ones. Set encoding.template: chat, which adds no tokens, or "
            "train.lora.rank: null."
        )
    return adapted


def merged(
    adapted: PeftModel, plain: PreTrainedModel, lora: LoraParams, new_tokens: Sequence[int]
) -> PreTrainedModel:
    """Return the base model with what the adapters learned, without a trace of them.

    Args:
        adapted: The trained model; its frozen weights may be quantised.
        plain: The model that it began as, unquantised; changed in place. Each of its weights is
            rounded to its own type once.
        lora: The settings of ``adapted``.
        new_tokens: Ids whose rows it trained, too.
    """
    other = add_adapters(plain, lora, new_tokens)
    places = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                places[name].copy_(parameter)
    other.merge_and_unload()
    return plain


def head_of(model: PreTrainedModel) -> tuple[nn.Module, Tensor | None, list[int]]:
    """Return the layer that makes the logits, and its rows that are trained beside frozen ones.

    Returns:
        The layer with the frozen weight; rows ``[N, H]`` that stand in place of its own, or None;
        their N indices.
    """
    head = model.get_output_embeddings()
    plain = without_rows(head)
    if plain is head:
        return head, None, []
    adapter: Any = head.token_adapter
    (name,) = adapter.active_adapters
    return (
        plain,
        adapter.trainable_tokens_delta[name],
        adapter.token_indices[name],
    )


def without_rows(layer: nn.Module) -> nn.Module:
    """Return embeddings or a head with their own weight, beside which rows may be trained."""
    adapter = getattr(layer, "token_adapter", None)  # PEFT's
    if adapter is None:
        return layer
    plain: nn.Module = adapter.get_base_layer()
    return plain


def _rows(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """Return the rows to train, by layer: the embeddings' and, if not tied to them, the head's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = {id(layer.weight): layer for layer in (head, embedding)}.values()
    names = {module: name for name, module in model.named_modules()}
    return {names[layer]: list(tokens) for layer in layers} if tokens else None


@torch.no_grad()
def _some_logits(model: PreTrainedModel) -> Tensor:
    """Return the logits of the vocabulary's last tokens, ``[T, V]``, in float32."""
    num_ids = model.config.get_text_config().vocab_size
    ids = torch.arange(max(0, num_ids - 8), num_ids, device=model.device)[None]
    was_training = model.training
    model.eval()
    logits: Tensor = model(ids, use_cache=False).logits[0]
    model.train(was_training)
    return logits.float()
