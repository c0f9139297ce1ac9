"""Low-rank adapters of experts that a layer keeps in one tensor, and of what only looks linear."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, set_seed

from benchmarks.families import FAMILIES, rows_of, small_model, texts
from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_llama
from tests.training_runs import (
    CPU,
    DEFAULTS,
    LORA,
    MAX_LENGTH,
    NEW_TOKENS,
    NUM_OLD_TOKENS,
    WINDOWS,
    Run,
    Start,
    check_continues,
    load,
    num_targets,
    pack_rows,
    run,
    start_from,
    window_nll,
)
from tuning.language_model.loading import load_plain_model
from tuning.processes.group import Processes
from tuning.run.errors import UserError
from tuning.training.few_bits import quantization_config
from tuning.training.finish import replace_model
from tuning.training.lora import add_adapters, experts, merged, never_learned
from tuning.training.loss import PackedLoss
from tuning.training.passes import Passes
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.setup import beside_experts
from tuning.training.start import load_for_training

MIXTURES = [
    kind for kind in FAMILIES if "moe" in kind or kind in ("gpt_oss", "mixtral", "jamba")
] + ["deepseek_v3", "llama4_text", "qwen3_next"]
TENSORS = ("gate_up_proj", "down_proj")
NUM_EXPERTS = 24
RANK = 2
assert LORA.rank == RANK


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    return pack_rows(tmp_path_factory.mktemp("rows"), WINDOWS)


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """A mixture of the kind that is asked for, of Qwen 3's by default."""
    make_tiny_llama(tmp_path / "base", TEXTS)
    model = small_model(
        getattr(request, "param", "qwen3_moe"),
        vocab_size=NUM_OLD_TOKENS,
        num_experts=NUM_EXPERTS,
        num_local_experts=NUM_EXPERTS,
    )
    model.save_pretrained(tmp_path / "base")
    return start_from(tmp_path / "base", tmp_path / "tokenizer")


def loaded(folder: Path, kind: str) -> PreTrainedModel:
    small_model(kind).save_pretrained(folder)
    return load_plain_model(folder)


def products(adapted: dict[str, Tensor], layer: str, name: str) -> Tensor:
    """What the adapters of a layer's experts add, unscaled: ``[E, outputs, inputs]``."""
    path = f"{layer}.base_layer" if name == TENSORS[0] else layer  # one wraps the other
    down, up = (adapted[f"{path}.lora_{each}.default.weight"] for each in "AB")
    return torch.stack([up[:, e::NUM_EXPERTS] @ down[e * RANK : (e + 1) * RANK] for e in range(24)])


@pytest.mark.parametrize("start", ["granitemoe", "gpt_oss"], indirect=True)
def test_they_learn_as_pefts_do(start: Start, rows: PackedRows, tmp_path: Path) -> None:
    """Six steps of PEFT's own model in a plain loop, one window at a time, all logits."""
    changes: dict[str, Any] = {"max_steps": 6, "learning_rate": 3e-2, "weight_decay": 0.0}
    found = run(start, rows, tmp_path / "checkpoints", lora=LORA, **changes)

    model: Any = load(start)[0]
    set_seed(7)
    head = [] if model.config.tie_word_embeddings else ["lm_head"]
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules="all-linear",
        target_parameters=[f"experts.{name}" for name in TENSORS],
        task_type="CAUSAL_LM",
        trainable_token_indices={name: list(NEW_TOKENS) for name in ["embed_tokens", *head]},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_seed(7)
        load_for_training(start.base, start.tokenizer, MAX_LENGTH)  # draws as ours has drawn
        model = get_peft_model(model, config)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    settings = DEFAULTS.model_copy(update=changes)
    schedule = Schedule(settings, num_rows=len(rows), seed=7)
    losses = []
    for step in range(6):
        windows = [WINDOWS[index] for row in schedule.rows(step) for index in rows.rows[row]]
        nll: Any = sum(window_nll(model, window) for window in windows)
        nll = nll / num_targets(windows)
        nll.backward()
        losses.append(nll.item())
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
    assert found.column("loss") == pytest.approx(losses, rel=1e-4)
    assert min(losses) < losses[0] - 1e-3


@pytest.mark.parametrize("kind", MIXTURES)
def test_every_expert_that_gets_a_token_learns_and_no_other(kind: str, tmp_path: Path) -> None:
    """Of every kind of mixture, at the rank that is asked for."""
    model = loaded(tmp_path, kind)
    sizes = {name: each.shape for name, each in experts(model).items()}
    assert {name.rsplit(".", 1)[-1] for name in sizes} == {*TENSORS}
    adapted = add_adapters(model, LORA, [])
    loss: Any = PackedLoss(model, CPU)(**rows_of(texts([3]), packing=False))[0]
    loss.backward()
    found = {
        name: each.grad
        for name, each in adapted.named_parameters()
        if "lora_B" in name and "experts" in name.split(".")
    }
    assert len(found) == len(sizes)
    num_learning = 0
    for number, gradient in enumerate(found.values()):
        assert gradient is not None
        of_expert = gradient.view(len(gradient), RANK, 4).abs().amax(dim=(0, 1))
        assert of_expert.max() > 0, number
        num_learning += int((of_expert > 0).sum())
    is_every = kind == "llama4_text"  # it computes all of them, of which it takes one
    assert num_learning < 4 * len(found) or is_every


def test_adapters_that_can_learn_nothing_are_named(tmp_path: Path) -> None:
    """Jamba's own kernels take a layer's weight, whatever is around the layer."""
    model = loaded(tmp_path, "jamba")
    adapted = add_adapters(model, LORA, [])
    loss: Any = PackedLoss(model, CPU)(**rows_of(texts([3]), packing=False))[0]
    loss.backward()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    assert never_learned(adapted) == ["dt_proj"]


def test_checkpoints_hold_them(start: Start, rows: PackedRows, tmp_path: Path) -> None:
    def train(folder: Path, stop_at: int | None = None) -> Run:
        changes: dict[str, Any] = {"lora": LORA, "max_steps": 4, "learning_rate": 3e-2}
        return run(start, rows, folder, checkpoint_minutes=0, stop_at=stop_at, **changes)

    check_continues(train, tmp_path, stop_at=3)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_merged_each_weight_is_rounded_once_and_says_the_same(
    start: Start, rows: PackedRows, tmp_path: Path, quantization: Any
) -> None:
    """In the type of most models; of few bits are the linear layers alone."""
    few_bits = quantization_config("nf4", torch.bfloat16) if quantization else None
    lora = LORA.model_copy(update={"quantization": quantization, "alpha": 64})
    set_seed(7)
    model = load_for_training(
        start.base, start.tokenizer, MAX_LENGTH, dtype=torch.bfloat16, quantization=few_bits
    )
    adapted = add_adapters(model, lora, NEW_TOKENS)
    run(start, rows, tmp_path / "checkpoints", model=model, lora=lora, epochs=4)
    passes = Passes(
        objective=PackedLoss(model, CPU),
        train=DEFAULTS,
        max_length=MAX_LENGTH,
        device=CPU,
        processes=Processes(),
    )
    trained = {name: each.clone() for name, each in adapted.state_dict().items()}

    def load_plain() -> PreTrainedModel:
        return load_for_training(start.base, start.tokenizer, MAX_LENGTH, dtype=torch.bfloat16)

    plain, figures = replace_model(
        lambda: merged(adapted, load_plain(), lora, NEW_TOKENS), passes, rows
    )
    base = experts(load_plain())
    for name in TENSORS:
        layer = "base_model.model.model.layers.1.mlp.experts"
        exact = base[f"model.layers.1.mlp.experts.{name}"].float() + 32 * products(
            trained, layer, name
        )
        found = experts(plain)[f"model.layers.1.mlp.experts.{name}"]
        assert found.dtype == torch.bfloat16
        assert (found != exact.bfloat16()).float().mean() < 1e-3, "sums in another order"
        assert (found != base[f"model.layers.1.mlp.experts.{name}"]).any(dim=2).any(dim=1).sum() > 9
    close = 5e-2 if quantization else 1e-2
    assert figures["sample_loss_published"] == pytest.approx(
        figures["sample_loss_trained"], rel=close
    )
    publish(plain, start.tokenizer, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert again.state_dict().keys() == load_plain().state_dict().keys()
    for name, each in experts(again).items():
        assert torch.equal(each, experts(plain)[name])


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("q_proj,v_proj", {"self_attn.q_proj", "self_attn.v_proj"}),
        ("q_proj, gate_up_proj", {"self_attn.q_proj", "mlp.experts"}),
        ("gate_up_proj", {"mlp.experts"}),
        ("experts.down_proj", {"mlp.experts"}),
        ("down_proj", {"mlp.experts", "mlp.shared_expert.down_proj"}),
    ],
)
def test_names_mean_what_is_named_so(tmp_path: Path, targets: str, expected: set[str]) -> None:
    """For Qwen 3 Next PEFT alone would take ``down_proj`` for the experts' and no other."""
    model = loaded(tmp_path, "qwen3_next")
    add_adapters(model, LORA.model_copy(update={"targets": targets}), [])
    found = {
        name.split(".lora_")[0].split(".", 3)[-1].removesuffix(".base_layer")
        for name, each in model.named_parameters()
        if each.requires_grad
    }
    assert found == expected


def test_all_linear_layers_are_all_beside_the_experts(tmp_path: Path) -> None:
    """Those of layers without experts, and of the experts that all tokens go to, too."""
    model = loaded(tmp_path, "deepseek_v3")
    add_adapters(model, LORA, [])
    found = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    for path in ("layers.0.mlp.down_proj", "layers.1.mlp.shared_experts.up_proj"):
        assert f"model.{path}" in found
    assert not [name for name in found if name.endswith(("router", "mlp.gate"))]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen3_moe", {"use_dora": True}, r"use_dora: .* down_proj and gate_up_proj are.* q_proj"),
        ("qwen3_moe", {"targets": "q_proj,up_prj"}, r"no layer up_prj .*; .*down_proj.*q_proj"),
        ("phimoe", {"targets": "router"}, r"no layer router that .*; wanted .* some of down"),
        ("zamba2", {}, r"share their weights.* others: in_proj, .*out_proj"),
        ("falcon_h1", {}, r"'all-linear' cannot all be .*out_proj.* others: down_proj, gate_proj"),
    ],
)
def test_what_cannot_be_adapted_is_refused_by_name(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"train\.lora\..*{message}"):
        add_adapters(loaded(tmp_path, kind), LORA.model_copy(update=changes), [])


def test_what_experts_are_not_is_said(start: Start) -> None:
    lora = LORA.model_copy(update={"quantization": "nf4"})
    model = load_for_training(
        start.base,
        start.tokenizer,
        MAX_LENGTH,
        device_map="cpu",
        quantization=quantization_config("nf4", torch.float32),
    )
    adapted = add_adapters(model, lora, NEW_TOKENS)
    device = beside_experts(replace(CPU, compiled=True, notes=("first",)), adapted, lora)
    assert not device.compiled
    first, few_bits, compiled = device.notes
    assert "experts stay as they are, in 0.00 GB" in few_bits
    assert "not compiled, in spite of train.torch_compile" in compiled

    model = load_for_training(start.base, start.tokenizer, MAX_LENGTH)
    lora = LORA.model_copy(update={"targets": "q_proj,v_proj"})
    as_asked = replace(CPU, compiled=True)
    assert beside_experts(as_asked, add_adapters(model, lora, NEW_TOKENS), lora) == as_asked


def test_dora_is_for_other_layers_of_a_mixture(tmp_path: Path) -> None:
    lora = LORA.model_copy(update={"use_dora": True, "targets": "q_proj,o_proj"})
    model = loaded(tmp_path, "qwen3_moe")
    add_adapters(model, lora, [])
    assert [name for name, _ in model.named_parameters() if "magnitude" in name]
