"""AdamW with moments of 8 bits, and weights of bfloat16."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_llama
from tests.training_runs import (
    MAX_LENGTH,
    WINDOWS,
    Run,
    Start,
    check_continues,
    pack_rows,
    run,
    start_from,
)
from tuning.training.checkpoint import TENSORS
from tuning.training.optimizer import rounded_stochastically
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training

FEW_BITS = ("adamw_8bit", "paged_adamw_8bit")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """With matrices of 4,096 numbers, from which on moments are of 8 bits."""
    folder: Path = tmp_path_factory.mktemp("llama")
    make_tiny_llama(folder / "base", TEXTS, hidden_size=64)
    return start_from(folder / "base", folder / "tokenizer")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    return pack_rows(tmp_path_factory.mktemp("rows"), WINDOWS)


def trained(start: Start, rows: PackedRows, folder: Path, **changes: Any) -> Run:
    dtype = torch.bfloat16 if changes.get("weights") == "bfloat16" else torch.float32
    model = load_for_training(start.base, start.tokenizer, MAX_LENGTH, dtype=dtype)
    return run(start, rows, folder, model=model, **changes)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", *FEW_BITS])
def test_a_stopped_run_continues_to_the_same_bytes(
    llama: Start, rows: PackedRows, tmp_path: Path, optimizer: str, weights: str
) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "weights": weights}
    changes["checkpoint_minutes"] = 1e-9
    whole = check_continues(partial(trained, llama, rows, **changes), tmp_path, stop_at=4)
    assert len(whole.log) == 6
    types = {tensor.dtype for tensor in whole.weights.values()}
    assert types == {getattr(torch, weights)}


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_moments_of_8_bits_train_nearly_as_those_of_32(
    llama: Start, rows: PackedRows, tmp_path: Path, weights: str
) -> None:
    """Those of matrices, but for the embeddings; a checkpoint is as much smaller."""
    runs = {
        optimizer: trained(
            llama,
            rows,
            tmp_path / optimizer,
            optimizer=optimizer,
            weights=weights,
            epochs=6,
            learning_rate=1e-2,
        )
        for optimizer in ("adamw", "adamw_8bit")
    }
    losses = [each.column("loss") for each in runs.values()]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[1][-1] < losses[1][0] - 0.5

    with pytest.raises(KeyboardInterrupt):
        trained(
            llama,
            rows,
            tmp_path / "cut",
            optimizer="adamw_8bit",
            weights=weights,
            checkpoint_minutes=1e-9,
            stop_at=2,
        )
    (file,) = (tmp_path / "cut").rglob(TENSORS)
    tensors = load_file(file)
    few = {name.split("/")[1] for name, each in tensors.items() if each.dtype == torch.uint8}
    assert few == {
        f"model.model.layers.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in (
            *(f"self_attn.{each}_proj" for each in ("q", "o")),
            *(f"mlp.{each}_proj" for each in ("gate", "up", "down")),
        )
    }
    assert not [name for name in tensors if "qmap" in name]


def test_updates_of_less_than_a_unit_of_rounding_are_not_lost(
    llama: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """Of 5e-5 each; rounded to the nearest, weights above 0.05 would hardly move."""
    changes = {"learning_rate": 5e-5, "epochs": 8, "weight_decay": 0.0, "warmup_steps": 0}
    wide = trained(llama, rows, tmp_path / "wide", **changes).weights
    narrow = trained(llama, rows, tmp_path / "narrow", weights="bfloat16", **changes).weights
    start = load_for_training(llama.base, llama.tokenizer, MAX_LENGTH).state_dict()
    name = "model.layers.1.mlp.gate_proj.weight"
    large = start[name].abs() > 0.02
    assert large.sum() > 500
    direction = (wide[name] - start[name])[large]
    found = (narrow[name].float() - start[name].bfloat16().float())[large]
    assert (found != 0).float().mean() > 0.5
    slope = (found * direction).sum() / direction.square().sum()
    assert slope == pytest.approx(1, abs=0.15)


def test_numbers_are_rounded_to_either_neighbour_and_keep_their_mean() -> None:
    """Numbers that bfloat16 has stay as they are."""
    generator = torch.Generator().manual_seed(0)
    step = 2**-7
    for number, share in ((1 + step / 4, 0.25), (-1 - step * 3 / 4, 0.75), (1.0, 0), (0.0, 0)):
        found = rounded_stochastically(torch.full((20_000,), number), generator)
        low = torch.tensor(number).sign() * int(abs(number))
        high = low + torch.tensor(number).sign() * step
        assert set(found.float().tolist()) <= {low.item(), high.item()}
        assert (found.float() == high).float().mean().item() == pytest.approx(share, abs=0.02) or (
            share == 0 and (found.float() == low).all()
        )
