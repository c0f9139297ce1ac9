"""A tiny model's training as tests run it: its start, its rows, one run and what it left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from tests.tiny_model import SMALL_TRAIN
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.language_model.device import Device
from tuning.run.params import LoraParams
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.lora import add_adapters
from tuning.training.loss import PackedLoss
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training
from tuning.training.trainer import VALIDATION_LOSS, TrainResult, fine_tune

if TYPE_CHECKING:
    from peft import PeftModel

DEFAULTS = SMALL_TRAIN.model_copy(
    update={"learning_rate": 2e-3, "epochs": 2, "warmup_steps": 2, "weight_decay": 0.5}
)
LORA = DEFAULTS.lora.model_copy(update={"rank": 2, "alpha": 8})
CPU = Device(kind="cpu", precision="no", compiled=False, notes=())
NUM_OLD_TOKENS = 400
MAX_LENGTH = 40
SPEAKERS, END_OF_TURN, PAD = (400, 401), 402, 403
NEW_TOKENS = (*SPEAKERS, END_OF_TURN, PAD)


@dataclass(frozen=True)
class Start:
    """Folders of a base model and of its tokenizer with the dialogue tokens."""

    base: Path
    tokenizer: Path


@dataclass(frozen=True)
class Run:
    weights: dict[str, Tensor]
    result: TrainResult
    validated: dict[int, dict[str, Tensor]]
    """The weights at each validation, by step."""

    @property
    def log(self) -> list[dict[str, float]]:
        return self.result.log

    def column(self, name: str) -> list[float]:
        return [entry[name] for entry in self.log if name in entry]


def start_from(base: Path, tokenizer_folder: Path) -> Start:
    assert len(load_tokenizer(base)) == NUM_OLD_TOKENS
    template = prepare_tokenizer(base, tokenizer_folder, len(SPEAKERS))
    assert template.tokenizer.pad_token_id == PAD
    return Start(base, tokenizer_folder)


def make_windows(num_windows: int, *, first_token: int) -> list[Window]:
    """Two turns, the first of three tokens, the second of two to twelve; one in three is context.

    A turn is a speaker's tag, which is no target, its tokens and its end.
    """
    windows = []
    for index in range(num_windows):
        ids, is_target = [], []
        for turn, length in enumerate((3, 2 + (index * 7) % 11)):
            is_trained = (index + turn) % 3 != 0
            content = range(first_token + 5 * index, first_token + 5 * index + length)
            ids += [SPEAKERS[turn], *content, END_OF_TURN]
            is_target += [False, *[is_trained] * (length + 1)]
        windows.append(Window(ids, is_target))
    return windows


WINDOWS = make_windows(26, first_token=10)
VALIDATION_WINDOWS = make_windows(11, first_token=100)


def pack_rows(folder: Path, windows: Sequence[Window], weights: Sequence[float] = ()) -> PackedRows:
    write_windows(folder, windows, weights)
    return PackedRows(folder, max_length=MAX_LENGTH, packing=True, pad_token_id=PAD)


def load(
    start: Start, lora: LoraParams = DEFAULTS.lora
) -> tuple[PreTrainedModel, PeftModel | None]:
    set_seed(7)
    model = load_for_training(start.base, start.tokenizer, MAX_LENGTH)
    adapted = add_adapters(model, lora, NEW_TOKENS) if lora.rank is not None else None
    return model, adapted


def run(
    start: Start,
    rows: PackedRows,
    folder: Path,
    *,
    model: PreTrainedModel | None = None,
    seed: int = 7,
    device: Device = CPU,
    validation: PackedRows | None = None,
    checkpoint_minutes: float = 60,
    stop_at: int | None = None,
    **changes: object,
) -> Run:
    train = DEFAULTS.model_copy(update=changes)
    model = model or load(start, train.lora)[0]
    validated = {}

    def weights() -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == stop_at:
            raise KeyboardInterrupt
        if VALIDATION_LOSS in metrics:
            validated[step] = weights()

    objective = PackedLoss(model, device, gradient_checkpointing=train.gradient_checkpointing)

    with CheckpointFolder(folder, "fingerprint") as checkpoints:
        result = fine_tune(
            objective,
            rows,
            train,
            seed=seed,
            device=device,
            checkpoints=checkpoints,
            checkpoint_minutes=checkpoint_minutes,
            validation=validation,
            on_step=on_step,
        )
    return Run(weights(), result, validated)


def check_continues(train: Callable[..., Run], folder: Path, *, stop_at: int) -> Run:
    """A training that is stopped before a step's checkpoint ends with the bytes of one that is not.

    ``train`` takes the folder of the checkpoints and ``stop_at``, and saves every step.
    """
    whole = train(folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "cut", stop_at=stop_at)
    again = train(folder / "cut")
    assert again.result.timing.num_steps == len(whole.log) - (stop_at - 1)
    assert again.log == whole.log
    assert not moved(again.weights, whole.weights)
    return whole


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of tensors of which a bit has changed."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def check_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= tolerance, name


def window_nll(model: Any, window: Window) -> Any:
    """Nats of a window's targets, from the definition: alone, unmasked, all logits."""
    ids = torch.tensor(window.input_ids)
    log_probabilities = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
    return -sum(
        log_probabilities[place - 1, ids[place]]
        for place in range(1, len(ids))
        if window.is_target[place]
    )


def num_targets(windows: Sequence[Window]) -> int:
    return sum(sum(window.is_target) for window in windows)
