"""What preflight plans: what training really holds, and changes that fit by its own plan."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from benchmarks.families import FAMILIES, small_model
from tests.conftest import TEXTS
from tests.tiny_model import SMALL_TRAIN, make_tiny_llama
from tests.windows import write_windows
from tools.preflight import fit
from tools.preflight.finding import Finding
from tools.preflight.fit import check_plan, config_of, this_machine, training_seconds
from tools.preflight.heap import Heap
from tools.preflight.memory import Counted, count_scoring, count_training
from tools.preflight.meter import Meter
from tools.preflight.plan import (
    CLOSE,
    Machine,
    make_plan,
    smallest_change,
    with_values,
)
from tuning.encoding.cutting import Window
from tuning.language_model.device import TARGETS_PER_CHUNK, Device
from tuning.language_model.loading import load_plain_model, reads_alone
from tuning.processes.group import Processes
from tuning.run.params import Params, ScoreParams, TrainParams, load_params
from tuning.scoring.nats import TREE_TOKENS
from tuning.training import snapshot
from tuning.training.few_bits import quantization_config
from tuning.training.lora import add_adapters, experts
from tuning.training.loss import PackedLoss
from tuning.training.optimizer import Optimizer

ROOT = Path(__file__).parents[2]
FLOAT32 = Device(kind="cpu", precision="no", compiled=False, notes=())
BF16 = Device(kind="cpu", precision="bf16", compiled=False, notes=())
GPU = Device(kind="cuda", precision="bf16", compiled=False, notes=())
SCORE = load_params(ROOT / "params.yaml").score
LORA = SMALL_TRAIN.lora.model_copy(update={"rank": 4})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with matrices large enough for moments of 8 bits."""
    folder: Path = tmp_path_factory.mktemp("base") / "llama"
    make_tiny_llama(folder, TEXTS, hidden_size=64)
    return folder


@pytest.fixture(scope="module")
def config(base: Path) -> PreTrainedConfig:
    found: PreTrainedConfig = AutoConfig.from_pretrained(base)
    return found


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Those of this project, in a folder where nothing has run; for a GPU, uncompiled."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return with_values(load_params(), {"train.torch_compile": False})


def count(config: PreTrainedConfig, device: Device = BF16, **changes: Any) -> Counted:
    length = changes.pop("max_length", 64)
    train = SMALL_TRAIN.model_copy(update=changes)
    return count_training(config, train, max_length=length, device=device, has_new_tokens=False)


def test_what_is_held_at_once_is_counted_once() -> None:
    with Meter() as meter:
        one = torch.zeros(1000)
        view = one[10:].view(2, -1)
        other = one + 1
        assert (meter.now, meter.peak) == (8000, 8000)
        del one, other
        assert (meter.now, meter.peak) == (4000, 8000), "a view keeps what it is of"
        del view
        assert (meter.now, meter.peak) == (0, 8000)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weights": "bfloat16"},
        {"optimizer": "adamw_8bit"},
        {"weights": "bfloat16", "optimizer": "adamw_8bit"},
        {"lora": LORA},
        {"lora": LORA.model_copy(update={"use_dora": True, "targets": "q_proj,v_proj"})},
        {"lora": LORA, "optimizer": "adamw_8bit"},
    ],
)
def test_weights_and_moments_are_those_that_training_holds(
    base: Path, config: PreTrainedConfig, changes: dict[str, Any]
) -> None:
    train = SMALL_TRAIN.model_copy(update=changes)
    counted = count(config, **changes)
    dtype = torch.bfloat16 if train.weights == "bfloat16" else torch.float32
    model = load_plain_model(base, dtype=dtype)
    if train.lora.rank is not None:
        add_adapters(model, train.lora, [])
    held = snapshot.take(model, optimizer_of(model, train), Processes())
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in held.items()}
    trained = sum(size for name, size in sizes.items() if name.startswith("weight/"))
    assert counted.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert counted.trained == trained
    steps = sum(name.startswith("step/") for name in sizes)
    assert counted.moments == pytest.approx(sum(sizes.values()) - trained, abs=8 * steps)


def optimizer_of(model: Any, train: TrainParams) -> Optimizer:
    return Optimizer(PackedLoss(model, FLOAT32), train)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_weights_of_few_bits_are_counted_as_they_lie_in_memory(
    base: Path, config: PreTrainedConfig, kind: Any
) -> None:
    few = LORA.model_copy(update={"quantization": kind})
    saved = count(config, lora=LORA).weights - count(config, FLOAT32, lora=few).weights
    model = load_plain_model(
        base, device_map="cpu", quantization=quantization_config(kind, torch.float32)
    )
    plain = load_plain_model(base)
    really = sum(
        each.numel() * each.element_size() - other.numel() * other.element_size()
        for each, other in zip(plain.parameters(), model.parameters(), strict=True)
    )
    assert saved == pytest.approx(really, rel=0.03)  # scales beside them


def test_a_pass_takes_more_with_more_tokens_and_less_where_it_is_computed_again(
    config: PreTrainedConfig,
) -> None:
    few, more = (count(config, max_length=length).passing for length in (64, 128))
    assert few < more
    assert count(config, max_length=128, gradient_checkpointing=True).passing < more
    on_gpu = [count(config, GPU, batch_size=rows).passing for rows in (2, 4, 8)]
    assert on_gpu == sorted({*on_gpu})
    many, as_many = (count(config, batch_size=rows, max_length=1024).passing for rows in (4, 8))
    assert many == as_many, "a CPU takes 2,048 tokens at a time"


def test_what_the_compiler_fuses_is_not_kept(config: PreTrainedConfig) -> None:
    plain, compiled = (
        count(config, Device(kind="cpu", precision="bf16", compiled=compiled, notes=())).passing
        for compiled in (False, True)
    )
    assert compiled < plain


def test_what_is_freed_between_blocks_that_stay_is_too_small_for_its_like() -> None:
    heap = Heap()
    places = [heap.allocate(10_000) for _ in range(100)]
    top = heap.top
    for place in places:
        heap.free(place)
    for place in [heap.allocate(9_000) for _ in range(100)]:
        heap.free(place)
    assert heap.top == top, "side by side, holes are one"
    places = [heap.allocate(10_000) for _ in range(100)]
    for place in places[::2]:
        heap.free(place)
    for _ in range(50):
        heap.allocate(10_000)
    assert heap.top > 1.2 * top


def test_a_heap_grows_by_more_than_what_is_held_at_once(config: PreTrainedConfig) -> None:
    counted = count(config, max_length=1024)
    assert 0 < counted.lost < counted.passing


def test_embeddings_that_grow_leave_the_old_ones_mapped(config: PreTrainedConfig) -> None:
    def mapped(**changes: Any) -> int:
        train = SMALL_TRAIN.model_copy(update=changes)
        plan = partial(count_training, config, train, max_length=64, device=BF16)
        assert plan(has_new_tokens=False).mapped == 0
        return plan(has_new_tokens=True).mapped

    assert mapped() == 2 * 4 * config.vocab_size * config.hidden_size, "and the head"
    assert mapped(weights="bfloat16") == 0, "read into memory of their own"


def test_scoring_takes_float32_weights_and_more_with_more_rows(
    base: Path, config: PreTrainedConfig
) -> None:
    one = count_scoring(config, scored(batch_size=1), kind="cuda")
    parameters = load_plain_model(base).parameters()
    assert one.weights == sum(4 * each.numel() for each in parameters)
    more = count_scoring(config, scored(batch_size=2), kind="cuda")
    assert more.passing > one.passing
    wide = AutoConfig.from_pretrained(base, vocab_size=1234)
    new, known = (count_scoring(wide, scored(batch_size=2), kind="cuda") for _ in range(2))
    assert new == known, "whether a shape was seen before makes no difference"
    logits, chunk = (4 * num * config.vocab_size for num in (2 * TREE_TOKENS, TARGETS_PER_CHUNK))
    assert more.passing >= logits + 2 * chunk, (
        "a chunk's logits are copied, and so is their softmax"
    )
    on_cpu = count_scoring(config, scored(batch_size=2), kind="cpu")
    assert on_cpu.passing > more.passing, "a heap loses some"


def scored(**changes: Any) -> ScoreParams:
    return SCORE.model_copy(update=changes)


def test_a_cpu_that_writes_holds_the_weights_twice_where_a_file_has_them(base: Path) -> None:
    mapped, read = (
        AutoConfig.from_pretrained(base, dtype=dtype, hidden_size=512, intermediate_size=4096)
        for dtype in ("float32", "bfloat16")
    )
    few = scored(batch_size=1, max_new_tokens=1)
    of_mapped, of_read = (count_scoring(each, few, kind="cpu") for each in (mapped, read))
    assert of_mapped.passing > 0.9 * of_mapped.weights
    assert of_read.passing < of_mapped.passing
    rounded = count_scoring(mapped, scored(batch_size=1, dtype="bfloat16"), kind="cuda")
    assert rounded.passing >= rounded.weights / 2, "float32 ones are there while they are loaded"


def test_the_change_that_is_advised_fits_by_the_plan(
    config: PreTrainedConfig, params: Params
) -> None:
    asked = with_values(params, {"train.batch_size": 8, "encoding.max_length": 1024})
    batch = {"train.batch_size": 4, "train.gradient_accumulation_steps": 8}
    checkpointing = {"train.gradient_checkpointing": True}
    smallest = {"train.batch_size": 1, "train.gradient_accumulation_steps": 32} | checkpointing
    for wanted in (batch, smallest):
        needed = make_plan(config, with_values(asked, wanted), machine(1)).train
        here = machine(1.001 * needed / CLOSE)
        assert make_plan(config, asked, here).train > CLOSE * here.memory
        assert smallest_change(config, asked, here) == wanted
    larger = LlamaConfig(  # of which the weights weigh more than the library for adapters
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=2,
        num_attention_heads=8,
        vocab_size=400,
    )
    adapters = with_values(asked, smallest | {"train.lora.rank": 16})
    here = machine(1.0001 * make_plan(larger, adapters, machine(1)).train / CLOSE)
    found = smallest_change(larger, asked, here)
    assert found is not None and found["train.lora.rank"] == 16
    assert make_plan(config, with_values(asked, found), here).train < CLOSE * here.memory
    assert smallest_change(config, asked, machine(1e8)) is None


def machine(memory: float) -> Machine:
    return Machine(device=GPU, memory=memory)


def test_several_devices_hold_a_part_each(config: PreTrainedConfig, params: Params) -> None:
    many = Machine(device=GPU, memory=1e9, num_devices=8)
    whole = make_plan(config, params, many)
    sharded = make_plan(config, with_values(params, {"runtime.shard_model": True}), many)
    assert sharded.train < whole.train and sharded.score < whole.score
    adapters = with_values(params, {"train.lora.rank": 16})
    frozen = make_plan(config, with_values(adapters, {"runtime.shard_model": True}), many)
    assert frozen.train < make_plan(config, adapters, many).train


def test_a_part_for_each_device_comes_before_another_result(
    config: PreTrainedConfig, params: Params
) -> None:
    sharded = {"runtime.shard_model": True}
    asked = with_values(params, {"train.gradient_checkpointing": True, "train.batch_size": 1})
    many = Machine(device=GPU, memory=1e9, num_devices=8)
    needed = make_plan(config, with_values(asked, sharded), many).train
    here = replace(many, memory=1.001 * needed / CLOSE)
    assert smallest_change(config, asked, here) == sharded
    few = with_values(asked, {"train.optimizer": "adamw_8bit"})
    found = smallest_change(config, few, here)
    assert found is None or "runtime.shard_model" not in found


def fetched(folder: Path, params: Params) -> None:
    """Leave what a fetch with these parameters would leave in dvc.lock."""
    values = {"params.yaml": {"data.hub": {}, "model": params.model.model_dump()}}
    with (folder / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": {"fetch": {"params": values}}}, file)


def test_a_model_that_is_not_here_is_planned_once_it_is(
    base: Path, params: Params, tmp_path: Path
) -> None:
    text = "none before smollm2-135m is here: dvc repro fetch gets it."
    assert list(check_plan([params, params], base)) == [Finding("plan", text)]
    fetched(tmp_path, params)
    assert config_of(params.model, base) is not None
    assert config_of(params.model, None) is None
    for change in ({"model.name": "a/b", "model.revision": "0" * 40}, {"model.name": str(base)}):
        other = with_values(params, change)
        found = config_of(other.model, tmp_path / "another models/base")
        assert (found is None) == (other.model.revision is not None)


def test_a_run_that_does_not_fit_is_an_error_that_says_what_would(
    base: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = with_values(params, {"model.name": str(base), "score.batch_size": 1})
    (fits,) = check_plan([own], None)
    assert fits.kind == "plan"
    assert "train 0.5 GB, score 0.4 GB of" in fits.text
    assert fits.text.endswith("; hours once encode has run")
    monkeypatch.setattr(fit, "CGROUP_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("300000000\n")
    _, train, score = check_plan([own], None)
    assert {train.kind, score.kind} == {"error"}
    assert "training takes about 0.5 GB of 0.3 GB. No change of train.* would fit" in train.text
    assert "scoring takes about 0.4 GB of 0.3 GB" in score.text
    (tmp_path / "memory.max").write_text("465000000\n")
    _, train, score = check_plan([own], None)
    assert {train.kind, score.kind} == {"warning"}


def test_runs_that_take_the_same_are_planned_once_and_a_bad_one_is_an_error(
    base: Path, params: Params
) -> None:
    own = with_values(params, {"model.name": str(base)})
    rates = [with_values(own, {"train.learning_rate": rate, "seed": 3}) for rate in (0.1, 0.2)]
    assert [finding.kind for finding in check_plan([own, *rates], None)] == ["plan"]
    (bad,) = check_plan([with_values(own, {"train.mixed_precision": "fp16"})], None)
    assert bad.kind == "error" and "needs a GPU" in bad.text


def test_a_model_that_cannot_be_counted_is_no_error_of_preflight(
    params: Params, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text('{"model_type": "no-such-kind"}')
    (found,) = check_plan([with_values(params, {"model.name": "mine"})], None)
    assert found.kind == "plan"
    assert found.text.startswith("none: the bytes of mine could not be counted (ValueError: ")


def test_hours_are_those_of_the_windows_that_encode_left(
    base: Path, params: Params, tmp_path: Path
) -> None:
    encoded = tmp_path / "data/encoded"
    encoded.mkdir(parents=True)
    write_windows(encoded, [Window(list(range(50)), [True] * 50)] * 9)
    own = with_values(params, {"model.name": str(base), "train.mixed_precision": "no"})
    (found,) = check_plan([own], None)
    assert re.search(r"; training about \d+\.\d h$", found.text)
    few, more = (own_seconds(config_of(own.model, None), own, steps) for steps in (10, 1000))
    assert few < more


def own_seconds(config: PreTrainedConfig | None, params: Params, steps: int) -> float:
    assert config is not None
    long = with_values(params, {"train.max_steps": steps})
    here = this_machine(long)
    seconds = training_seconds(long, make_plan(config, long, here).counted, here.device)
    assert seconds is not None
    return seconds


def test_the_disk_must_hold_the_models_and_should_hold_checkpoints(
    base: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = with_values(params, {"model.name": str(base)})
    weights = sum(4 * each.numel() for each in load_plain_model(base).parameters())
    usage = namedtuple("usage", "free")
    found = []
    for free in (3 * weights - 1, 3 * weights, 12 * weights - 1, 13 * weights):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free))
        found.append([finding.kind for finding in check_plan([own], None)][1:])
    assert found == [["error"], ["warning"], ["warning"], []]


FAMILIES_OF_EACH_KIND = ("qwen3_moe", "gpt_oss", "lfm2", "granitemoehybrid", "gemma2", "mamba2")


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in FAMILIES_OF_EACH_KIND else pytest.param(kind, marks=pytest.mark.thorough)
        for kind in FAMILIES
        if kind not in ("rwkv", "xlstm")  # which cannot be trained
    ],
)
def test_every_family_is_counted(kind: str, tmp_path: Path) -> None:
    model = small_model(kind)
    counted = count(model.config, FLOAT32)
    assert (
        counted.weights == counted.trained == sum(4 * each.numel() for each in model.parameters())
    )
    scoring = count_scoring(model.config, scored(batch_size=1, max_new_tokens=8), kind="cpu")
    assert scoring.weights == counted.weights
    assert scoring.passing > 0
    model.save_pretrained(tmp_path)
    if reads_alone(load_plain_model(tmp_path)):
        assert not count(model.config, replace(FLOAT32, compiled=True)).compiled


def test_of_a_mixture_a_pass_keeps_what_the_chosen_experts_make_and_with_adapters_a_copy() -> None:
    model = small_model("qwen3_moe")
    one, two = (
        count(small_model("qwen3_moe", num_experts_per_tok=number).config, FLOAT32).passing
        for number in (1, 2)
    )
    assert one < two
    lora = {"lora": LORA}
    compiled = replace(BF16, compiled=True)
    kept = count(model.config, compiled, **lora)
    assert not kept.compiled
    copies = sum(each.nbytes for each in experts(model).values())
    fewer = count(model.config, compiled, gradient_checkpointing=True, **lora)
    assert kept.passing - fewer.passing > copies / 2
