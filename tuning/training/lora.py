"""Low-rank adapters (Hu et al. 2021) beside frozen weights, and the new tokens' embeddings."""

from __future__ import annotations

import warnings

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.run.errors import UserError
from tuning.run.params import LoraParams
from tuning.training.start import embedding_weights


def add_adapters(model: PreTrainedModel, lora: LoraParams, num_old_tokens: int) -> PeftModel:
    """Freeze the model but for low-rank adapters and the embeddings of the new tokens.

    Args:
        model: Changed in place.
        lora: With a rank.
        num_old_tokens: Rows of the embeddings that stay as they are.

    Returns:
        The model with adapters; its ``merge_and_unload`` is called in the end.

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

    for weight in embedding_weights(model):
        weight.requires_grad_(True)
        weight.register_hook(keep_old_rows)  # type: ignore[no-untyped-call]
    return adapted
