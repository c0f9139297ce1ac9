"""Packed rows give the loss and the gradients that the windows give alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from tests.conftest import TEXTS
from tests.tiny_model import enlarged, make_tiny_llama
from tests.windows import write_windows
from tuning.encoding.cutting import Window
from tuning.language_model import device as device_module
from tuning.language_model.device import Device
from tuning.packing import IGNORE_INDEX
from tuning.training import attention_cpu as attention
from tuning.training import attention_gpu as flex
from tuning.training import loss as loss_module
from tuning.training.loss import PackedLoss, summed_nll
from tuning.training.rows import PackedRows

WINDOWS = [
    Window([5, 40, 41, 42, 6], [False, True, True, True, True]),
    Window([7, 50, 51, 6], [False, False, True, True]),
    Window([5, 60, 6], [False, True, True]),
]
NUM_TARGETS = 8
CPU = Device(kind="cpu", precision="no", compiled=False, notes=())
GPU = Device(kind="cuda", precision="no", compiled=True, notes=())
TINY: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedModel:
    """One whose head is tied to its embeddings, one whose is not and whose heads share keys."""
    folder = tiny_base
    if request.param == "llama":
        folder = tmp_path_factory.mktemp("base") / "tiny-llama"
        make_tiny_llama(folder, TEXTS)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    assert loaded.config.tie_word_embeddings == (request.param == "gpt2")
    return enlarged(loaded)


@pytest.fixture(params=[CPU, GPU], ids=["cpu", "gpu"])
def loss(request: pytest.FixtureRequest, model: PreTrainedModel, flex_on_cpu: None) -> PackedLoss:
    """With a CPU's attention, and with a GPU's: flex where transformers' model takes it."""
    model = deepcopy(model)
    model.set_attn_implementation("sdpa")  # as load_for_training
    loss = PackedLoss(model, request.param)
    of_gpu = flex.NAME if model.config.model_type == "llama" else "sdpa"
    assert implementation(loss) == (of_gpu if request.param is GPU else attention.NAME)
    return loss


def implementation(loss: PackedLoss) -> str:
    return str(loss.model.config._attn_implementation)


def batch(
    folder: Path, *, packing: bool, max_length: int = 16, weights: Sequence[float] = ()
) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    write_windows(folder, WINDOWS, weights)
    rows = PackedRows(folder, max_length=max_length, packing=packing, pad_token_id=1)
    return rows.collate([rows[index] for index in range(len(rows))], batch_size=len(rows))


def mean_nll(loss: PackedLoss, inputs: dict[str, Tensor], divisor: int = NUM_TARGETS) -> Any:
    """As the loop divides: by the targets of the whole step, whatever is in the batch."""
    nll, _ = loss(**inputs)
    return nll / divisor


def loss_and_gradients(
    loss: PackedLoss, inputs: dict[str, Tensor], *, scale: float = 1.0
) -> tuple[float, Gradients]:
    loss.zero_grad()
    value = mean_nll(loss, inputs)
    (scale * value).backward()
    return value.item(), gradients(loss.model)


def from_the_definition(
    model: PreTrainedModel, weights: Sequence[float] = (1, 1, 1)
) -> tuple[float, Gradients]:
    """Every window alone, unmasked, by transformers' own attention and all of its logits."""
    model = deepcopy(model)
    nll: Any = torch.zeros(())
    for window, weight in zip(WINDOWS, weights, strict=True):
        ids = torch.tensor(window.input_ids)
        log_probabilities = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if window.is_target[place]:
                nll = nll - weight * log_probabilities[place - 1, ids[place]]
    (nll / NUM_TARGETS).backward()
    return nll.item() / NUM_TARGETS, gradients(model)


def gradients(model: PreTrainedModel) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_equal(
    found: tuple[float, Gradients], expected: tuple[float, Gradients], *, tolerance: float = 1e-6
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    largest = max(gradient.norm().item() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        error = (found[1][name] - gradient).norm().item()
        assert error <= 3 * tolerance * max(gradient.norm().item(), largest / 100), name


def test_packed_equals_unpacked(loss: PackedLoss, tmp_path: Path) -> None:
    packed = batch(tmp_path / "a", packing=True)
    assert len(packed["input_ids"]) == 1  # all three windows share one row
    unpacked = batch(tmp_path / "b", packing=False)
    check_equal(loss_and_gradients(loss, packed), loss_and_gradients(loss, unpacked))


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    "kind", ["gemma", "gemma3_text", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3", "smollm3"]
)
def test_other_models_are_trained_as_with_their_own_attention(
    kind: str, device: Device, flex_on_cpu: None, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(kind, **TINY, intermediate_size=32, head_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    own = enlarged(model)
    packed = deepcopy(own)
    packed.set_attn_implementation("sdpa")
    found = loss_and_gradients(PackedLoss(packed, device), batch(tmp_path, packing=True))
    check_equal(found, from_the_definition(own), tolerance=1e-5)


@pytest.mark.parametrize(
    ("targets_per_chunk", "targets_per_shape"), [(1024, 128), (6, 3), (3, 1), (1, 1)]
)
def test_the_loss_is_that_of_all_logits(
    model: PreTrainedModel,
    loss: PackedLoss,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets_per_chunk: int,
    targets_per_shape: int,
) -> None:
    """Eight targets are one chunk, two or three unequal ones, eight; all parameters have gradients.

    Chunks are filled up, or are not.
    """
    monkeypatch.setattr(device_module, "TARGETS_PER_CHUNK", targets_per_chunk)
    monkeypatch.setattr(loss_module, "TARGETS_PER_SHAPE", targets_per_shape)
    expected = from_the_definition(model)
    assert expected[1].keys() == dict(model.named_parameters()).keys()
    check_equal(loss_and_gradients(loss, batch(tmp_path, packing=True)), expected)


def test_a_target_counts_by_its_weight(
    model: PreTrainedModel, loss: PackedLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the sum, in the gradient, and in what the loop divides by."""
    monkeypatch.setattr(device_module, "TARGETS_PER_CHUNK", 3)
    monkeypatch.setattr(loss_module, "TARGETS_PER_SHAPE", 3)
    weights = (0.25, 3.0, 1.5)
    packed = batch(tmp_path, packing=True, weights=weights)
    check_equal(loss_and_gradients(loss, packed), from_the_definition(model, weights))
    _, total = loss(**packed)
    counts = [sum(window.is_target) for window in WINDOWS]
    assert total == sum(map(mul, counts, weights))


def test_a_model_that_keeps_its_own_logits_counts_a_target_by_its_weight(tmp_path: Path) -> None:
    logits = torch.randn(1, 4, 10)
    labels = torch.tensor([[IGNORE_INDEX, 4, 2, 7]])
    weights = torch.tensor([[9.0, 0.5, 2.0, 0.0]])
    one, two = (
        summed_nll(logits, torch.where(labels == token, labels, IGNORE_INDEX)) for token in (4, 2)
    )
    assert summed_nll(logits, labels, weights).item() == pytest.approx((one / 2 + 2 * two).item())


def test_logits_are_made_for_targets_only(loss: PackedLoss, tmp_path: Path) -> None:
    """The head itself, which would make those of the whole batch, is not called."""

    def fail(*_: object) -> None:
        raise AssertionError

    inputs = batch(tmp_path, packing=True)
    loss.model.get_output_embeddings().register_forward_hook(fail)
    loss(**inputs)


def test_the_targets_are_counted_and_the_gradient_multiplied(
    loss: PackedLoss, tmp_path: Path
) -> None:
    """Loss scaling multiplies the loss; the number of targets is that of the batch."""
    inputs = batch(tmp_path, packing=True)
    value, expected = loss_and_gradients(loss, inputs)
    assert loss(**inputs)[1].item() == NUM_TARGETS
    _, scaled = loss_and_gradients(loss, inputs, scale=1024)
    check_equal((value, {name: each / 1024 for name, each in scaled.items()}), (value, expected))


def test_gradients_of_batches_add_up(
    model: PreTrainedModel, loss: PackedLoss, tmp_path: Path
) -> None:
    """A row a batch, one of them without a target, is one batch of three rows."""
    rows = batch(tmp_path, packing=False)
    without_target = dict(batch(tmp_path, packing=True))
    without_target["labels"] = torch.full_like(without_target["labels"], IGNORE_INDEX)
    value = mean_nll(loss, without_target)
    value.backward()
    assert value.item() == 0
    assert loss(**without_target)[1].item() == 0
    assert not any(gradient.any() for gradient in gradients(loss.model).values())
    total = 0.0
    for index in range(3):
        one = {name: each[index : index + 1] for name, each in rows.items()}
        value = mean_nll(loss, one)
        value.backward()
        total += value.item()
    check_equal((total, gradients(loss.model)), from_the_definition(model))


@pytest.mark.parametrize("head_is_trained", [True, False])
def test_frozen_parts_do_not_change_the_gradients_of_others(
    model: PreTrainedModel, tmp_path: Path, head_is_trained: bool
) -> None:
    value, expected = from_the_definition(model)
    frozen = deepcopy(model)
    head = frozen.get_output_embeddings().weight
    for parameter in frozen.parameters():
        parameter.requires_grad_((parameter is head) == head_is_trained)
    names = {name for name, each in frozen.named_parameters() if each.requires_grad}
    found = loss_and_gradients(PackedLoss(frozen, CPU), batch(tmp_path, packing=True))
    check_equal(found, (value, {name: expected[name] for name in names}))


def test_bf16_agrees_within_its_precision(
    model: PreTrainedModel, loss: PackedLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits are 0.4 % of a number; gradients pass through several matrix products."""
    monkeypatch.setattr(device_module, "TARGETS_PER_CHUNK", 6)
    monkeypatch.setattr(loss_module, "TARGETS_PER_SHAPE", 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_and_gradients(loss, batch(tmp_path, packing=True))
    assert found[1]
    assert all(gradient.dtype == torch.float32 for gradient in found[1].values())
    check_equal(found, from_the_definition(model), tolerance=0.01)


def test_without_gradients_the_loss_is_the_same(loss: PackedLoss, tmp_path: Path) -> None:
    inputs = batch(tmp_path, packing=True)
    expected = mean_nll(loss, inputs).item()
    loss.eval()
    with torch.no_grad():
        assert mean_nll(loss, inputs).item() == expected


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_attention_weights_are_dropped_on_a_gpu_too(flex_on_cpu: None, share: float) -> None:
    """Flex cannot, so such a model keeps PyTorch's plain attention."""
    config = LlamaConfig(intermediate_size=32, attention_dropout=share, **TINY)
    torch.manual_seed(0)
    loss = PackedLoss(enlarged(LlamaForCausalLM(config)).train(), GPU)
    assert implementation(loss) == ("sdpa" if share else flex.NAME)
    ids = torch.arange(12)[None]
    row = {"input_ids": ids, "labels": ids, "position_ids": ids, "segment_ids": ids.new_ones(1, 12)}
    assert len({mean_nll(loss, row, 11).item() for _ in range(3)}) == (3 if share else 1)


def tiny_phi() -> PreTrainedModel:
    """Its head has a bias."""
    model = PhiForCausalLM(PhiConfig(intermediate_size=32, **TINY))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def tiny_gemma2() -> PreTrainedModel:
    """Its logits are capped, smoothly: small ones hardly change."""
    config = Gemma2Config(
        intermediate_size=32,
        head_dim=4,
        attn_logit_softcapping=None,
        final_logit_softcapping=30.0,
        **TINY,
    )
    return Gemma2ForCausalLM(config)


def tiny_granite() -> PreTrainedModel:
    """Its logits are divided."""
    return GraniteForCausalLM(GraniteConfig(intermediate_size=32, logits_scaling=4.0, **TINY))


@pytest.mark.parametrize("make", [tiny_phi, tiny_gemma2, tiny_granite])
def test_a_head_that_does_more_than_a_product_keeps_its_logits(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    """Found out while logits are small, and right when training has made them large."""
    torch.manual_seed(0)
    model = make()
    loss = PackedLoss(model, CPU)
    enlarged(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    reference = deepcopy(model)
    reference.set_attn_implementation("eager")
    assert reference(torch.tensor([WINDOWS[0].input_ids])).logits.abs().max() > 5
    found = loss_and_gradients(loss, batch(tmp_path, packing=True))
    check_equal(found, from_the_definition(reference))


def test_padding_and_empty_rows_change_nothing(loss: PackedLoss, tmp_path: Path) -> None:
    short = batch(tmp_path / "a", packing=True, max_length=12)
    rows = PackedRows(tmp_path / "a", max_length=24, packing=True, pad_token_id=1)
    padded = rows.collate([rows[0]], batch_size=3)
    assert padded["input_ids"].shape == (3, 24)
    check_equal(loss_and_gradients(loss, padded), loss_and_gradients(loss, short))


def test_a_window_does_not_feel_its_neighbours(loss: PackedLoss, tmp_path: Path) -> None:
    """No gradient flows from one window's loss to another window's embeddings."""
    inputs = batch(tmp_path, packing=True)
    inputs["labels"][inputs["segment_ids"] != 2] = IGNORE_INDEX
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    loss.model.get_input_embeddings().register_forward_hook(keep)
    mean_nll(loss, inputs, 1).backward()
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


def test_a_mask_has_a_type_that_a_gpu_takes_beside_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of float32 it is refused there, or misread; then the head would not be found plain."""
    attend = torch.nn.functional.scaled_dot_product_attention
    types = []

    def watched(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        types.append({settings["attn_mask"].dtype, torch.bool, query.dtype})
        return attend(query, key, value, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = LlamaForCausalLM(LlamaConfig(**TINY, intermediate_size=32)).bfloat16()
    PackedLoss(model, CPU)
    assert types == 2 * [{torch.bool, torch.bfloat16}]
