"""Low-rank adapters (Hu et al. 2021) beside frozen weights, and the new tokens' rows.

Layers are linear ones, and experts of which a layer keeps all in one tensor: each expert has an
adapter of its own there.

PEFT takes seconds to load, so it is loaded where there are adapters.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuning.run.errors import UserError, first_line

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
        UserError: the model has no layer of a name in ``lora.targets``, or layers that cannot be
            adapted so, or an embedding or head of a kind of which single rows cannot be trained.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    before, routers = _some_logits(model), _routers(model)
    modules, tensors = _targets(model, lora, routers)
    assert lora.rank is not None
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # a float does
        target_modules=modules,
        target_parameters=tensors,
        exclude_modules=(routers if modules == "all-linear" else None) or None,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        task_type="CAUSAL_LM",
        trainable_token_indices=_rows(model, new_tokens),
    )
    names = _last_parts(_linear(model))
    try:
        with warnings.catch_warnings(), _names_meant_as_they_are():
            # PEFT asks for what transformers is about to rename, and reports that GPT-2's layers
            # are transposed, which it takes care of.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            adapted = get_peft_model(model, settings)
    except ValueError as error:  # out_proj of some state spaces, whose kernels pass adapters by
        raise UserError(
            f"train.lora.targets: {lora.targets!r} cannot all be adapted in this model "
            f"({first_line(error)}). Name others: {', '.join(names)}."
        ) from error
    assert isinstance(adapted, PeftModel)
    _measure_magnitudes(adapted)
    # PEFT takes an embedding for a lookup, and a head for a product without a bias.
    if new_tokens and not torch.allclose(
        _some_logits(model), before, rtol=1e-2, atol=1e-2 * float(before.std())
    ):
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
    _merge_experts(other)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All adapters are already merged")
        other.merge_and_unload()
    return plain


def never_learned(adapted: nn.Module) -> list[str]:
    """Return the last parts of layers' names of which every adapter is as it began, if some moved.

    The model takes such a layer's weights without calling it, or no token came by.
    """
    learned: dict[str, bool] = {}
    for name, parameter in adapted.named_parameters():
        layer, is_second, _ = name.partition(".lora_B.")  # which begins as zeros
        if is_second:
            last = layer.rsplit(".", 1)[-1]
            learned[last] = learned.get(last, False) or bool(parameter.any())
    idle = sorted(name for name, has_moved in learned.items() if not has_moved)
    return idle if len(idle) < len(learned) else []  # else no step had a learning rate


def adapts_experts(adapted: nn.Module) -> bool:
    """Tell whether experts of one tensor are among what has adapters."""
    return any(is_expert_adapter(module) for module in adapted.modules())


def is_expert_adapter(module: nn.Module) -> bool:
    """Tell whether a module is PEFT's around one that has a tensor of experts."""
    return hasattr(module, "parameter_name")


def experts(model: nn.Module) -> dict[str, Tensor]:
    """Return what is a linear map per expert (or head), ``[E, _, _]``, by the parameter's name.

    Of one tensor for all of them, which is no linear layer's.
    """
    return {
        f"{path}.{name}": parameter
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1 and not isinstance(module, nn.Conv1d)
    }


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


def _targets(
    model: PreTrainedModel, lora: LoraParams, routers: Sequence[str]
) -> tuple[str | list[str], list[str]]:
    """Return which modules and which experts' tensors get adapters, in PEFT's form.

    Raises:
        UserError: a name is nothing's, or what it names cannot be adapted so.
    """
    linear = [name for name in _linear(model) if name not in routers]
    tensors = [*experts(model)]
    modules: str | list[str] = lora.targets
    adapted = linear
    if modules != "all-linear":
        names = lora.targets.replace(" ", "").split(",")
        ends = (model.get_input_embeddings(), model.get_output_embeddings())  # perhaps tied
        inner = [name for name, each in model.named_modules() if each not in ends]
        every = [name for name in inner if name not in routers]
        unknown = [name for name in names if not _named([*every, *tensors], [name])]
        if unknown:
            raise UserError(
                f"train.lora.targets: found {lora.targets!r}, and the model has no layer "
                f"{' and no '.join(unknown)} that can be adapted; wanted all-linear, or some of "
                f"{', '.join(_last_parts([*linear, *tensors]))}."
            )
        modules = [name for name in names if _named(every, [name])]
        tensors, adapted = _named(tensors, names), _named(linear, names)
    uses = Counter(model.get_submodule(name).weight for name in linear)
    own = [name for name in linear if uses[model.get_submodule(name).weight] == 1]
    if not {*adapted} <= {*own}:
        raise UserError(
            f"train.lora.targets: {lora.targets!r} has layers that share their weights, which "
            "would get several adapters and, in the end, all of them. Name others: "
            f"{', '.join(_last_parts(own))}."
        )
    if tensors and lora.use_dora:
        others = _last_parts(name for name in linear if not _named([name], _last_parts(tensors)))
        raise UserError(
            "train.lora.use_dora: it cannot be used with experts that are one tensor for a layer, "
            f"as this model's {' and '.join(_last_parts(tensors))} are. Set it to false, or name "
            f"other layers in train.lora.targets: {', '.join(others)}."
        )
    return modules, tensors


def _linear(model: PreTrainedModel) -> list[str]:
    """Return the linear layers but for the head, whose weights the loss reads by itself."""
    head = model.get_output_embeddings()
    return [
        name
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear | Conv1D) and each is not head
    ]


def _routers(model: PreTrainedModel) -> list[str]:
    """Return the linear layers that make more than a product, which no adapter can be added to."""
    found = []

    def listen(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                found.append(name)

        return model.get_submodule(name).register_forward_hook(hook)

    hooks = [listen(name) for name in _linear(model)]
    _some_logits(model)
    for each in hooks:
        each.remove()
    return found


def _last_parts(paths: Iterable[str]) -> list[str]:
    return sorted({path.rsplit(".", 1)[-1] for path in paths})


def _named(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the paths that end with one of the names, as PEFT compares them."""
    return [path for path in paths if any(f".{path}".endswith(f".{name}") for name in names)]


@contextmanager
def _names_meant_as_they_are() -> Iterator[None]:
    """Keep PEFT from reading names of layers as those of an older transformers.

    For some mixtures it takes them all for the experts', at another rank and with the routers, and
    leaves out the linear layers that are named so.
    """
    from peft.utils import transformers_weight_conversion as conversion

    convert = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = convert


def _measure_magnitudes(adapted: PeftModel) -> None:
    """Take DoRA's magnitudes in float32, as each pass does: PEFT has them in the base's type.

    Of bfloat16 weights those are wrong by up to 0.4 %, and no model would begin as its base.
    """
    from peft.tuners.lora.layer import LoraLayer

    layers: list[Any] = [each for each in adapted.modules() if isinstance(each, LoraLayer)]
    for module in layers:
        for name, magnitude in module.lora_magnitude_vector.items():
            down, up = module.lora_A[name].weight, module.lora_B[name].weight
            magnitude.update_layer(
                base_layer=module.get_base_layer(),
                lora_A=down,
                lora_B=up,
                scaling=module.scaling[name],
            )


def _merge_experts(adapted: PeftModel) -> None:
    """Merge the adapters of experts, whose product PEFT would round before it is added."""
    from peft.tuners.lora.layer import ParamWrapper

    for module in adapted.modules():
        if isinstance(module, ParamWrapper):
            parameter = module.get_param()  # type: ignore[no-untyped-call]
            own_type = parameter.dtype
            parameter.data = parameter.data.float()
            module.merge()
            parameter.data = parameter.data.to(own_type)


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
