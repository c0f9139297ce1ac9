"""All that a training works on, and the model that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from tuning.language_model.device import Device
from tuning.language_model.loading import own_dtype, reads_alone
from tuning.processes.group import Processes
from tuning.processes.sharding import Spread, is_sharded
from tuning.run.errors import UserError
from tuning.template_record import TemplateRecord, read_record
from tuning.training.few_bits import quantization_config
from tuning.training.finish import replace_model, round_weights
from tuning.training.lora import adapts_experts, add_adapters, experts, merged
from tuning.training.loss import PackedLoss, sharded_loss
from tuning.training.passes import Passes
from tuning.training.publishing import check_publishing
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training, weights_dtype

if TYPE_CHECKING:
    from peft import PeftModel

    from tuning.run.params import LoraParams, TrainParams


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a training works on."""

    rows: PackedRows
    validation: PackedRows | None
    """Rows on which the validation loss is measured; None if it is not to be measured."""
    sample: PackedRows | None
    """Rows on which is measured what publishing changes, if it changes anything: of the validation
    set, if it has any."""
    objective: PackedLoss
    passes: Passes
    """How rows reach the objective."""
    adapters: PeftModel | None
    """Low-rank adapters, if any; merged into the model once it is trained."""


def build(
    encoded: Path,
    base: Path,
    train: TrainParams,
    device: Device,
    processes: Processes,
    *,
    max_length: int,
    in_parts: bool,
) -> Setup:
    """Read the rows and make the model ready to be trained.

    Raises:
        UserError: there is nothing to train or to validate on, or the model or two settings do not
            go together.
    """
    in_parts = in_parts and processes.size > 1
    if in_parts and device.precision == "fp16":
        raise UserError(
            "runtime.shard_model needs train.mixed_precision: bf16 (which this GPU has not) or no."
        )
    tokenizer = encoded / "tokenizer"
    make = partial(
        make_model, tokenizer, base, train, device, max_length=max_length, is_moved=not in_parts
    )
    spread = Spread(make, processes) if in_parts else None
    model, adapters = (spread.model, spread.beside) if spread else make()
    if reads_alone(model):
        device = alone_on(device, model, train)
    if adapters is not None:
        device = beside_experts(device, adapters, train.lora)
    read_rows = partial(
        PackedRows,
        max_length=max_length,
        packing=train.packing and not reads_alone(model),
        pad_token_id=template_record(tokenizer).pad_id,
    )
    rows = read_rows(encoded)
    if not rows.num_target_tokens:
        raise UserError(
            f"nothing to train: no window in {encoded} has a target token; run dvc repro."
        )
    rounds = adapters is not None or weights_dtype(base, train, device) != own_dtype(base)
    validation = sample = None
    if train.eval_steps is not None or rounds:
        validation = sample = read_rows(encoded / "validation", num_windows=train.eval_windows)
    if validation is not None and not validation.num_target_tokens:
        sample = read_rows(encoded, num_windows=train.eval_windows)
        if train.eval_steps is not None:
            raise UserError(
                "train.eval_steps is set, and there is nothing to validate on: no validation "
                "dialogue has a target token (data.validation_fraction, encoding.loss_on)."
            )
    checkpointing = train.gradient_checkpointing
    objective = (
        sharded_loss(spread, device, gradient_checkpointing=checkpointing)
        if spread
        else PackedLoss(model, device, gradient_checkpointing=checkpointing)
    )
    passes = Passes(
        objective=objective,
        train=train,
        max_length=max_length,
        device=device,
        processes=processes,
    )
    return Setup(
        rows=rows,
        validation=validation if train.eval_steps is not None else None,
        sample=sample if rounds else None,
        objective=objective,
        passes=passes,
        adapters=adapters,
    )


def make_model(
    tokenizer: Path,
    base: Path,
    train: TrainParams,
    device: Device,
    *,
    max_length: int,
    is_moved: bool,
) -> tuple[PreTrainedModel, PeftModel | None]:
    """Load the base model as training starts from it, with adapters if it is to have any.

    Args:
        tokenizer: What encode left, with the template's record.
        base: The base model's folder.
        train: Hyperparameters.
        device: Where it is trained.
        max_length: Tokens of a row.
        is_moved: Whether it goes there; else it stays on the CPU.

    Raises:
        UserError: the model or two settings do not go together.
    """
    few_bits = None
    if train.lora.quantization == "int8" and train.lora.use_dora and device.kind == "cpu":
        raise UserError(  # PEFT loses the scales there when it reads the weights
            "train.lora.use_dora: beside train.lora.quantization: int8 it needs a GPU, and none "
            "was found. Set quantization to nf4 or null, or use_dora to false."
        )
    if train.lora.quantization is not None:
        few_bits = quantization_config(train.lora.quantization, device.dtype)
    model = load_for_training(
        base,
        tokenizer,
        max_length,
        dtype=weights_dtype(base, train, device),
        device_map=device.kind if few_bits else None,
        quantization=few_bits,
    )
    check_publishing(model, tokenizer)
    if is_moved:
        nn.Module.to(model, device.kind)
    adapters = None
    if train.lora.rank is not None:
        adapters = add_adapters(model, train.lora, template_record(tokenizer).new_tokens)
    return model, adapters


def alone_on(device: Device, model: PreTrainedModel, train: TrainParams) -> Device:
    """Return the device for a model that reads texts alone, with notes on what is not as asked."""
    kind = model.config.model_type
    notes = list(device.notes)
    if train.packing:
        notes.append(
            f"{kind} models read a row from left to right whatever a mask hides, so each window "
            "has a row of its own, in spite of train.packing"
        )
    if device.compiled:  # loops over tokens: minutes or hours, and no faster in the end
        notes.append(f"{kind} models are not compiled, in spite of train.torch_compile")
    return replace(device, compiled=False, notes=tuple(notes))


def beside_experts(device: Device, adapters: PeftModel, lora: LoraParams) -> Device:
    """Return the device for adapters, with notes on what experts of one tensor are not."""
    notes = list(device.notes)
    whole = experts(adapters).values()
    if lora.quantization is not None and whole:
        notes.append(
            "train.lora.quantization is of linear layers, so the experts stay as they are, in "
            f"{sum(each.nbytes for each in whole) / 1e9:.2f} GB"
        )
    if device.compiled and adapts_experts(adapters):
        notes.append("adapters of experts are not compiled, in spite of train.torch_compile")
        device = replace(device, compiled=False)
    return replace(device, notes=tuple(notes))


def to_publish(
    setup: Setup, base: Path, tokenizer: Path
) -> tuple[PreTrainedModel, dict[str, float]]:
    """The trained model as it is published, in the base model's own type, and its sample's loss.

    Every process calls this; the main one gets the whole model.
    """
    model, adapted, passes = setup.objective.model, setup.adapters, setup.passes
    in_parts = is_sharded(setup.objective)
    dtype = own_dtype(base)
    if adapted is None and not in_parts:
        if setup.sample is None:
            return model, {}
        return model, round_weights(model, dtype, passes, setup.sample)
    weights: dict[str, Tensor] = {}
    if adapted is None:
        weights = passes.processes.gather(model.state_dict(keep_vars=True))

    def make() -> PreTrainedModel:
        plain = load_for_training(base, tokenizer, passes.max_length, dtype=dtype)
        if adapted is None:
            plain.load_state_dict(weights)
            return plain
        return merged(adapted, plain, passes.train.lora, template_record(tokenizer).new_tokens)

    return replace_model(make, passes, setup.sample)


def template_record(tokenizer: Path) -> TemplateRecord:
    """Return the record that encode writes beside the tokenizer."""
    record = read_record(tokenizer)
    assert record is not None
    return record
