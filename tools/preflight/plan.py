"""What a run is going to take, memory and disk; and the smallest change with which it fits.

Bytes are counted (``tools.preflight.memory``); what stands here beside them was measured on a CPU
(docs/large-models.md) or, for GPUs, is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from transformers import PreTrainedConfig

from tools.preflight.memory import Counted, count_scoring, count_training
from tuning.language_model.device import Device
from tuning.run.params import Params, conflict
from tuning.training.checkpoint import NUM_CHECKPOINTS_KEPT

PROCESS = {"cpu": 0.4e9, "cuda": 0.6e9}
"""What a process takes before there is a model: libraries, or a GPU's context (assumed)."""
ADAPTERS = 0.06e9
"""What PEFT and bitsandbytes take beside that, where they are loaded."""
COMPILER = 0.2e9
"""What the compiler leaves in a process that trains on a CPU."""
LOST_ON_GPU = 0.1
"""Of what passes hold, between tensors of many sizes (assumed); on a CPU it is counted."""
MODELS_WRITTEN = 3
"""Training's, DVC's copy of it, and the released one."""
CLOSE = 0.85
"""From this share of what there is, a plan may be wrong about whether it fits."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is planned for; it need not be this one."""

    device: Device
    memory: float
    """Bytes of each device."""
    num_devices: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes on the device and on the disk."""

    train: float
    score: float
    score_weights: float
    """What the weights take of it."""
    disk: float
    """With checkpoints."""
    least_disk: float
    """Without any."""
    counted: Counted


def make_plan(config: PreTrainedConfig, params: Params, machine: Machine) -> Plan:
    """Plan a run.

    Args:
        config: The base model's.
        params: Of the run.
        machine: Where it runs.
    """
    train, device = params.train, machine.device
    num_parts = machine.num_devices if params.runtime.shard_model else 1
    counted = count_training(
        config,
        train,
        max_length=params.encoding.max_length,
        device=device,
        has_new_tokens=params.encoding.template != "chat",
        num_processes=num_parts,
    )
    held: float = counted.weights + counted.trained + counted.moments
    if num_parts > 1:
        whole = 0 if train.lora.rank is None else counted.trained + counted.moments
        held = whole + (held - whole) / num_parts + 2 * counted.largest_part  # and its gradient
    needed = PROCESS[device.kind] + held + counted.passing
    if train.lora.rank is not None or train.optimizer != "adamw":
        needed += ADAPTERS
    scoring = count_scoring(config, params.score, kind=device.kind)
    of_model: float = scoring.weights
    if num_parts > 1:
        largest = counted.largest_part * scoring.weights / counted.weights
        of_model = scoring.weights / num_parts + largest
    score = PROCESS[device.kind] + of_model + scoring.passing
    if device.kind == "cuda":
        needed += LOST_ON_GPU * counted.passing
        score += LOST_ON_GPU * scoring.passing
    else:
        needed += counted.lost + counted.mapped
        # Beside what training's heap keeps, adapters are merged, and the loss is measured where
        # publishing changes weights, uncompiled.
        if train.lora.rank is not None:
            needed += counted.published
        if counted.compiled:
            needed += COMPILER
            if counted.published != counted.weights:
                needed += counted.unfused
    models = MODELS_WRITTEN * counted.published
    checkpoints = (NUM_CHECKPOINTS_KEPT + 1) * (counted.trained + counted.moments)  # one is new
    return Plan(
        train=needed,
        score=score,
        score_weights=scoring.weights,
        disk=models + checkpoints,
        least_disk=models,
        counted=counted,
    )


def smallest_change(
    config: PreTrainedConfig, params: Params, machine: Machine
) -> dict[str, Any] | None:
    """Return the least change with which training fits, by keys; None if there is none.

    What leaves the result as it is comes first: smaller passes, then checkpointing, then a part of
    the model for each device.
    """

    def fits(change: dict[str, Any]) -> bool:
        plan = make_plan(config, with_values(params, change), machine)
        return plan.train < CLOSE * machine.memory

    same = [{}, *_same_result(params, machine)]
    for other in ({}, *_other_result(params)):
        changes = [other | one for one in same if not conflict(with_values(params, other | one))]
        if changes and fits(changes[-1]):
            return next(change for change in changes if fits(change))
    return None


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return parameters with other values, by keys such as ``train.lora.rank``."""
    sections = params.model_dump()
    for key, value in values.items():
        *names, last = key.split(".")
        reduce(getitem, names, sections)[last] = value
    return Params.model_validate(sections)


def _same_result(params: Params, machine: Machine) -> list[dict[str, Any]]:
    """Return changes of which the result differs by rounding alone, the least first."""
    train = params.train
    changes: list[dict[str, Any]] = []
    rows, batches = train.batch_size, train.gradient_accumulation_steps
    while rows % 2 == 0:
        rows, batches = rows // 2, batches * 2
        changes.append({"train.batch_size": rows, "train.gradient_accumulation_steps": batches})
    fewest = changes[-1] if changes else {}
    checkpointing = {"train.gradient_checkpointing": True}
    changes += [checkpointing, fewest | checkpointing]
    if machine.num_devices > 1:
        sharded = {"runtime.shard_model": True}
        changes += [one | sharded for one in ({}, checkpointing, fewest | checkpointing)]
    return changes


def _other_result(params: Params) -> Iterator[dict[str, Any]]:
    """Yield changes of what is trained and how, the one that is preferred first."""
    train = params.train
    adapters = {"train.lora.rank": train.lora.rank or 16, "train.weights": "float32"}
    if train.lora.rank is None:
        yield adapters
        if train.mixed_precision == "bf16":
            yield {"train.weights": "bfloat16", "train.optimizer": "adamw_8bit"}
    yield adapters | {"train.lora.quantization": "nf4"}
