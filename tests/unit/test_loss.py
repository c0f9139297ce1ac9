"""Packed rows give the loss and the gradients that the windows give alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from stages.encoding.dataset import PackedRows, write_windows
from stages.encoding.packing import IGNORE_INDEX
from stages.encoding.windows import Window
from stages.training.loss import attach_packed_loss, summed_nll

WINDOWS = [
    Window([5, 40, 41, 42, 6], [False, True, True, True, True]),
    Window([7, 50, 51, 6], [False, False, True, True]),
    Window([5, 60, 6], [False, True, True]),
]
NUM_TARGETS = 8


def tiny_model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    attach_packed_loss(model, compiled=False)
    return model


def batch(folder: Path, *, packing: bool, max_length: int = 16) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    write_windows(folder, WINDOWS)
    rows = PackedRows(folder, max_length=max_length, packing=packing, pad_token_id=1)
    return rows.collate([rows[index] for index in range(len(rows))], batch_size=len(rows))


def loss_and_gradients(
    model: PreTrainedModel, inputs: dict[str, Tensor]
) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = model(**inputs, num_items_in_batch=torch.tensor(NUM_TARGETS))["loss"]
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_packed_equals_unpacked(tiny_base: Path, tmp_path: Path) -> None:
    model = tiny_model(tiny_base)
    packed_batch = batch(tmp_path / "a", packing=True)
    assert len(packed_batch["input_ids"]) == 1  # all three windows share one row
    packed = loss_and_gradients(model, packed_batch)
    unpacked = loss_and_gradients(model, batch(tmp_path / "b", packing=False))
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-6)
    for one, other in zip(packed[1], unpacked[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_padding_and_empty_rows_change_nothing(tiny_base: Path, tmp_path: Path) -> None:
    model = tiny_model(tiny_base)
    short = batch(tmp_path / "a", packing=True, max_length=12)
    rows = PackedRows(tmp_path / "a", max_length=24, packing=True, pad_token_id=1)
    padded = rows.collate([rows[0]], batch_size=3)
    assert padded["input_ids"].shape == (3, 24)
    expected, found = loss_and_gradients(model, short), loss_and_gradients(model, padded)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_window_does_not_feel_its_neighbours(tiny_base: Path, tmp_path: Path) -> None:
    """No gradient flows from one window's loss to another window's embeddings."""
    model = tiny_model(tiny_base)
    inputs = batch(tmp_path, packing=True)
    inputs["labels"][inputs["segment_ids"] != 2] = IGNORE_INDEX
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.get_input_embeddings().register_forward_hook(keep)
    model(**inputs, num_items_in_batch=torch.tensor(1))["loss"].backward()
    gradient = embedded[0].grad
    assert gradient is not None
    felt = gradient.abs().sum(-1) > 0
    assert felt.any()
    assert not felt[inputs["segment_ids"] != 2].any()


def test_summed_nll_counts_each_target_once() -> None:
    """With uniform logits over V tokens, each of the targets costs ln V nats."""
    labels = torch.tensor([[IGNORE_INDEX, 3, IGNORE_INDEX, 0], [IGNORE_INDEX, 1, 2, 2]])
    nll = summed_nll(torch.zeros(2, 4, 10), labels)
    assert nll.item() == pytest.approx(5 * torch.log(torch.tensor(10.0)).item())


def test_labels_are_shifted_once() -> None:
    logits = torch.full((1, 3, 5), -100.0)
    logits[0, 0, 4] = 100.0  # position 0 predicts token 1
    logits[0, 1, 2] = 100.0
    assert summed_nll(logits, torch.tensor([[IGNORE_INDEX, 4, 2]])).item() == pytest.approx(0)
    assert summed_nll(logits, torch.tensor([[IGNORE_INDEX, 2, 4]])).item() > 100
