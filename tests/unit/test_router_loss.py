"""The router loss of a mixture of experts: transformers' own, row by row, in the gradient alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from benchmarks.families import (
    CPU,
    gradients,
    is_same,
    plain_nll,
    rows_of,
    small_model,
    texts,
)
from tests.conftest import TEXTS
from tests.tiny_model import SMALL_TRAIN, make_tiny_llama
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.language_model.loading import load_plain_model, router_coefficient
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.loss import PackedLoss
from tuning.training.publishing import publish
from tuning.training.router_loss import by_row
from tuning.training.rows import PackedRows
from tuning.training.trainer import fine_tune

KINDS = ("qwen3_moe", "mixtral", "granitemoe", "gpt_oss", "granitemoehybrid")
"""granitemoe's logits are divided, so it makes its own; granitemoehybrid reads texts alone."""
COEFFICIENT = 0.5


def loaded(folder: Path, kind: str, **settings: Any) -> PreTrainedModel:
    asked = {"output_router_logits": True, "router_aux_loss_coef": COEFFICIENT}
    small_model(kind, **asked | settings).save_pretrained(folder)
    return load_plain_model(folder)


def test_a_row_s_loss_is_that_of_its_own_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(3 * 7, 5, generator=generator) for _ in range(4)]
    counts = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False] * 7])
    found = by_row(logits, 2, counts)
    for row in range(2):
        own: Any = tuple(each.view(3, 7, 5)[row, counts[row]] for each in logits)
        expected = load_balancing_loss_func(own, num_experts=5, top_k=2)
        torch.testing.assert_close(found[row], expected)
    assert found[2] == 0


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_nats_and_each_row_s_loss(
    tmp_path: Path, kind: str, is_checkpointed: bool
) -> None:
    """By transformers' own router loss of each text alone, by the number of its targets."""
    model = loaded(tmp_path, kind)
    plain = deepcopy(model)
    expected: Any = torch.zeros(())
    for ids in texts():
        routed = plain(torch.tensor([ids]), output_router_logits=True, use_cache=False)
        share = (len(ids) - 1) * COEFFICIENT * routed.aux_loss
        expected = expected + plain_nll(plain, ids).sum() + share
    nats = sum(plain_nll(plain, ids).sum().item() for ids in texts())

    loss = PackedLoss(model, CPU, gradient_checkpointing=is_checkpointed).train()
    found, _ = loss(**rows_of(texts(), packing=False))
    assert found.item() == pytest.approx(nats, rel=1e-5)
    assert is_same([*gradients(model, found)], [*gradients(plain, expected)])
    with torch.no_grad():
        assert loss.eval()(**rows_of(texts(), packing=False))[0].item() == found.item()


def test_batches_do_not_change_it(tmp_path: Path) -> None:
    model = loaded(tmp_path, "qwen3_moe")
    loss = PackedLoss(model, CPU).train()
    rows = rows_of(texts(), packing=True)
    assert len(rows["input_ids"]) > 1
    whole = [*gradients(model, loss(**rows)[0])]
    parts: Sequence[Tensor] = [torch.zeros_like(each) for each in whole]
    for number in range(len(rows["input_ids"])):
        one = {name: each[number : number + 1] for name, each in rows.items()}
        found = gradients(model, loss(**one)[0])
        parts = [part + each for part, each in zip(parts, found, strict=True)]
    assert is_same(parts, whole)


@pytest.mark.parametrize("settings", [{}, {"output_router_logits": False}])
def test_it_is_there_if_the_configuration_says_so(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = loaded(tmp_path, "qwen3_moe", **settings)
    assert router_coefficient(model) == (0 if settings else COEFFICIENT)


def test_every_expert_that_gets_a_token_moves_and_no_other(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "llama", TEXTS)
    prepare_tokenizer(tmp_path / "llama", tmp_path / "tokenizer", 2)
    model = loaded(
        tmp_path / "base", "qwen3_moe", num_experts=24, num_local_experts=24, vocab_size=404
    )
    chosen: list[set[int]] = []
    for layer in model.get_decoder().layers:
        layer.mlp.gate.register_forward_hook(
            lambda _module, _inputs, output: chosen.append(set(output[2].flatten().tolist()))
        )
    window = Window([*range(10, 20)], [False] + [True] * 9)
    write_windows(tmp_path, [window])
    rows = PackedRows(tmp_path, max_length=len(window.input_ids), packing=True, pad_token_id=0)
    before = [layer.mlp.experts.down_proj.clone() for layer in model.get_decoder().layers]
    objective = PackedLoss(model, CPU)
    chosen.clear()
    train = SMALL_TRAIN.model_copy(update={"max_steps": 1, "batch_size": 1})
    fine_tune(objective, rows, train, seed=1, device=CPU, checkpoints=None, checkpoint_minutes=9)
    assert len(chosen) == len(before)
    for layer, old, received in zip(model.get_decoder().layers, before, chosen, strict=True):
        new = layer.mlp.experts.down_proj
        moved = {number for number in range(24) if not torch.equal(new[number], old[number])}
        assert moved == received
        assert 2 <= len(received) < 24
    publish(model, tmp_path / "tokenizer", tmp_path / "published")
    config = json.loads((tmp_path / "published/config.json").read_bytes())
    assert config["output_router_logits"]
    assert router_coefficient(load_plain_model(tmp_path / "published")) == COEFFICIENT
