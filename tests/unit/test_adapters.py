"""Low-rank adapters beside frozen weights, of any type or in few bits, and the new tokens' rows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

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
    Start,
    load,
    moved,
    num_targets,
    pack_rows,
    run,
    start_from,
    window_nll,
)
from tuning.language_model.loading import own_dtype
from tuning.processes.group import Processes
from tuning.run.errors import UserError
from tuning.training.few_bits import quantization_config
from tuning.training.finish import replace_model, round_weights
from tuning.training.lora import add_adapters, merged
from tuning.training.loss import PackedLoss
from tuning.training.passes import Passes
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.setup import make_model
from tuning.training.start import load_for_training


@pytest.fixture(scope="module")
def gpt2(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return start_from(tiny_base, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder: Path = tmp_path_factory.mktemp("llama")
    make_tiny_llama(folder / "base", TEXTS)
    return start_from(folder / "base", folder / "tokenizer")


@pytest.fixture(scope="module")
def llama_in_bf16(llama: Start, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """The same, as most models are published."""
    folder: Path = tmp_path_factory.mktemp("bf16")
    model = AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    for file in llama.base.glob("tokenizer*"):
        (folder / "base" / file.name).write_bytes(file.read_bytes())
    return start_from(folder / "base", folder / "tokenizer")


@pytest.fixture(params=["gpt2", "llama"])
def start(request: pytest.FixtureRequest) -> Start:
    """One with tied embeddings, one without."""
    found: Start = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    return pack_rows(tmp_path_factory.mktemp("rows"), WINDOWS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"quantization": "nf4"},
        {"quantization": "nf4", "use_dora": True},
        {"quantization": "int8"},
    ],
    ids=str,
)
def test_adapters_learn_as_pefts_do(
    start: Start, rows: PackedRows, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Six steps of PEFT's own model in a plain loop, one window at a time, all logits."""
    lora = LORA.model_copy(update=changes)
    few_bits = quantization_config(lora.quantization, torch.float32) if lora.quantization else None

    def plain() -> Any:
        set_seed(7)
        return load_for_training(start.base, start.tokenizer, MAX_LENGTH, quantization=few_bits)

    model = plain()
    add_adapters(model, lora, NEW_TOKENS)
    found = run(
        start,
        rows,
        tmp_path,
        model=model,
        lora=lora,
        max_steps=6,
        learning_rate=3e-2,
        weight_decay=0.0,
    )

    model = plain()
    embeddings = "wte" if model.config.model_type == "gpt2" else "embed_tokens"
    layers = [embeddings] if model.config.tie_word_embeddings else [embeddings, "lm_head"]
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        trainable_token_indices={layer: list(NEW_TOKENS) for layer in layers},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of GPT-2's transposed layers, and of what it asks for
        model = get_peft_model(model, config)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    settings = DEFAULTS.model_copy(update={"max_steps": 6, "learning_rate": 3e-2})
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
    tolerance = 2e-3 if lora.quantization == "int8" else 1e-4  # its products are of fp16
    assert found.column("loss") == pytest.approx(losses, rel=tolerance)
    assert min(losses) < losses[0] - 1e-3


def test_without_new_tokens_adapters_alone_are_trained(llama: Start) -> None:
    """As under ``encoding.template: chat``."""
    model, _ = load(llama)
    add_adapters(model, LORA, [])
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


def test_a_head_with_a_bias_is_refused_beside_new_rows(llama: Start, tmp_path: Path) -> None:
    """PEFT would leave the bias out without a word; without new rows the head stays as it is."""

    def with_bias() -> Any:
        model, _ = load(llama)
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.linspace(-9, 9, len(head.weight)))
        return model

    with pytest.raises(UserError, match="rows of new tokens cannot be trained beside"):
        add_adapters(with_bias(), LORA, NEW_TOKENS)
    add_adapters(with_bias(), LORA, [])


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_what_is_frozen_keeps_the_bases_type_and_what_is_published_has_it(
    llama_in_bf16: Start, rows: PackedRows, tmp_path: Path, quantization: Any
) -> None:
    """Adapters are float32; merged, each weight is rounded once, and what that cost is measured."""
    start = llama_in_bf16
    assert own_dtype(start.base) == torch.bfloat16
    lora = LORA.model_copy(update={"quantization": quantization, "alpha": 64})
    few_bits = quantization_config("nf4", torch.bfloat16) if quantization else None
    set_seed(7)
    model = load_for_training(
        start.base, start.tokenizer, MAX_LENGTH, dtype=torch.bfloat16, quantization=few_bits
    )
    adapted = add_adapters(model, lora, NEW_TOKENS)
    types = {each.dtype for each in model.parameters() if each.requires_grad}
    frozen = {each.dtype for each in model.parameters() if not each.requires_grad}
    assert types == {torch.float32}
    assert frozen == ({torch.bfloat16, torch.uint8} if quantization else {torch.bfloat16})
    run(start, rows, tmp_path / "checkpoints", model=model, lora=lora, epochs=4)
    passes = Passes(
        objective=PackedLoss(model, CPU),
        train=DEFAULTS,
        max_length=MAX_LENGTH,
        device=CPU,
        processes=Processes(),
    )

    def load_plain() -> Any:
        return load_for_training(start.base, start.tokenizer, MAX_LENGTH, dtype=torch.bfloat16)

    trained = {n: each.clone() for n, each in adapted.state_dict().items()}
    plain, figures = replace_model(
        lambda: merged(adapted, load_plain(), lora, NEW_TOKENS), passes, rows
    )
    layer = "base_model.model.model.layers.1.mlp.up_proj"
    base = load_plain().get_submodule("model.layers.1.mlp.up_proj").weight
    product = trained[f"{layer}.lora_B.default.weight"] @ trained[f"{layer}.lora_A.default.weight"]
    exact = base.float() + 64 / 2 * product
    found = plain.get_parameter("model.layers.1.mlp.up_proj.weight")
    assert torch.equal(found, exact.bfloat16())
    assert (found != base).float().mean() > 0.5
    assert figures["sample_loss_trained"] != figures["sample_loss_published"]
    close = 5e-2 if quantization else 1e-2
    assert figures["sample_loss_published"] == pytest.approx(
        figures["sample_loss_trained"], rel=close
    )
    publish(plain, start.tokenizer, tmp_path / "model")
    assert own_dtype(tmp_path / "model") == torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    nll = 0.0
    with torch.no_grad():
        for window in WINDOWS:
            nll += float(window_nll(again, window))
    assert nll / num_targets(WINDOWS) == pytest.approx(figures["sample_loss_published"], rel=1e-2)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_training_begins_as_the_base_whatever_its_type(
    llama_in_bf16: Start, quantization: Any
) -> None:
    few_bits = quantization_config("nf4", torch.bfloat16) if quantization else None
    model, plain = (
        load_for_training(
            llama_in_bf16.base,
            llama_in_bf16.tokenizer,
            MAX_LENGTH,
            dtype=torch.bfloat16,
            quantization=few_bits,
        )
        for _ in range(2)
    )
    lora = LORA.model_copy(update={"use_dora": True, "quantization": quantization})
    add_adapters(model, lora, NEW_TOKENS)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        found, expected = (each(input_ids=ids).logits for each in (model, plain))
    assert torch.equal(found, expected)


def test_full_training_is_rounded_to_the_bases_type_and_says_what_that_cost(
    llama_in_bf16: Start, rows: PackedRows, tmp_path: Path
) -> None:
    model, _ = load(llama_in_bf16)
    run(llama_in_bf16, rows, tmp_path, model=model)
    passes = Passes(
        objective=PackedLoss(model, CPU),
        train=DEFAULTS,
        max_length=MAX_LENGTH,
        device=CPU,
        processes=Processes(),
    )
    before = {name: each.clone() for name, each in model.state_dict().items()}
    figures = round_weights(model, torch.bfloat16, passes, rows)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name].bfloat16())
    difference = figures["sample_loss_published"] - figures["sample_loss_trained"]
    assert 0 < abs(difference) < 0.05


def test_only_adapters_and_the_rows_of_new_tokens_move(
    start: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """Though weights decay: old rows keep their bits."""
    model, _ = load(start, LORA)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = run(start, rows, tmp_path, model=model, lora=LORA)
    rows_of_new_tokens = {name for name in before if "trainable_tokens_delta" in name}
    adapters = {name for name in before if ".lora_" in name}
    assert len(adapters) > 8
    assert moved(before, after.weights) == adapters | rows_of_new_tokens
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = {name for name, each in parameters.items() if each.requires_grad}
    assert trained == adapters | rows_of_new_tokens
    assert len({parameters[name] for name in rows_of_new_tokens}) == (
        1 if model.config.tie_word_embeddings else 2
    )
    for name in rows_of_new_tokens:
        assert len(before[name]) == len(NEW_TOKENS)
        assert (before[name] != after.weights[name]).any(dim=1)[:3].all()


def test_the_merged_model_is_the_adapted_one_without_a_trace(
    start: Start, rows: PackedRows, tmp_path: Path
) -> None:
    model, adapters = load(start, LORA)
    run(start, rows, tmp_path / "checkpoints", model=model, lora=LORA)
    model.eval()
    model.set_attn_implementation("eager")
    ids = torch.tensor([WINDOWS[0].input_ids])
    with torch.no_grad():
        expected = model(ids).logits
    assert adapters is not None
    plain, _ = load(start)
    publish(merged(adapters, plain, LORA, NEW_TOKENS), start.tokenizer, tmp_path / "model")

    published = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(start.base)
    assert published.state_dict().keys() == base.state_dict().keys()
    published.set_attn_implementation("eager")
    with torch.no_grad():
        found = published(ids).logits
        plain = base(ids.clamp(max=NUM_OLD_TOKENS - 1)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found[..., :NUM_OLD_TOKENS] - plain)[:, 1:-1].abs().max() > 1e-3  # it did learn
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert not [name for name in names if "adapter" in name]
    changed = {"vocab_size", "eos_token_id", "pad_token_id", "transformers_version"}
    configs = [
        json.loads((folder / "config.json").read_text())
        for folder in (start.base, tmp_path / "model")
    ]
    for config in configs:
        for key in changed:
            config.pop(key, None)
    assert configs[0] == configs[1]


def test_adapters_for_a_layer_that_is_not_there_are_refused(llama: Start) -> None:
    with pytest.raises(UserError, match=r"train\.lora\.targets: found 'q_prj'.*k_proj.*q_proj"):
        load(llama, LORA.model_copy(update={"targets": "q_prj"}))


@pytest.mark.parametrize("base", ["gpt2", "llama"])
@pytest.mark.parametrize("new_tokens", [[], NEW_TOKENS], ids=["chat", "speakers"])
def test_embeddings_and_head_are_no_targets(
    base: str, new_tokens: list[int], request: pytest.FixtureRequest
) -> None:
    """They may be tied, and the loss multiplies by the head's weights without calling it."""
    model, _ = load(request.getfixturevalue(base))
    embedding = {"gpt2": "wte", "llama": "embed_tokens"}[base]
    for name in ("lm_head", embedding):
        lora = LORA.model_copy(update={"targets": f"q_proj,{name}"})
        with pytest.raises(UserError, match=rf"no layer .*{name} that .*; (?!.*{name})"):
            add_adapters(model, lora, new_tokens)


@pytest.mark.parametrize("new_tokens", [[], NEW_TOKENS], ids=["chat", "speakers"])
def test_directions_and_lengths_are_trained_beside_a_base_of_bfloat16(
    llama_in_bf16: Start, new_tokens: list[int]
) -> None:
    """DoRA multiplies its weights anew, so that bfloat16 rounds them otherwise from the start."""
    start = llama_in_bf16
    model = load_for_training(start.base, start.tokenizer, MAX_LENGTH, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 if parameter.ndim == 1 else 5)  # sharp, as a trained one is
    adapted = add_adapters(model, LORA.model_copy(update={"use_dora": True}), new_tokens)
    trained = [name for name, each in adapted.named_parameters() if each.requires_grad]
    assert sum("lora_magnitude_vector" in name for name in trained) == 14


def test_directions_beside_weights_of_8_bits_need_a_gpu(llama: Start) -> None:
    lora = LORA.model_copy(update={"use_dora": True, "quantization": "int8"})
    train = DEFAULTS.model_copy(update={"lora": lora})
    with pytest.raises(UserError, match="int8 it needs a GPU"):
        make_model(llama.tokenizer, llama.base, train, CPU, max_length=MAX_LENGTH, is_moved=True)
