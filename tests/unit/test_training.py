"""The model that training starts from and leaves behind, and the steps between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from stages.device import Device, choose_device
from stages.encoding.dataset import PackedRows, write_windows
from stages.encoding.speakers import add_dialogue_tokens, load_tokenizer
from stages.encoding.windows import Window
from stages.errors import UserError
from stages.params import TrainParams
from stages.training.checkpoint import CheckpointFolder
from stages.training.model import load_for_training, publish
from stages.training.trainer import TrainResult, fine_tune

DEFAULTS = TrainParams(
    learning_rate=1e-2,
    batch_size=2,
    gradient_accumulation_steps=2,
    epochs=2,
    mixed_precision="no",
    lr_scheduler_type="linear",
    warmup_steps=2,
    weight_decay=0.0,
    max_grad_norm=1.0,
    packing=False,
    torch_compile=False,
    num_threads=1,
)
CPU = Device(kind="cpu", precision="no", compiled=False, notes=())


@pytest.fixture(scope="module")
def tokenizer_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    """Ten windows: five batches of two, so an epoch ends with half a step."""
    folder = tmp_path_factory.mktemp("rows")
    windows = [Window([i, *range(20, 24 + i), 9], [False] + [True] * (5 + i)) for i in range(10)]
    write_windows(folder, windows)
    return PackedRows(folder, max_length=16, packing=False, pad_token_id=1)


def run(
    base: Path,
    tokenizer_folder: Path,
    rows: PackedRows,
    folder: Path,
    *,
    stop_at: int | None = None,
    **changes: object,
) -> tuple[dict[str, torch.Tensor], TrainResult]:
    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    set_seed(7)
    model = load_for_training(base, tokenizer_folder)
    with CheckpointFolder(folder, "fingerprint") as checkpoints:
        result = fine_tune(
            model,
            rows,
            DEFAULTS.model_copy(update=changes),
            seed=7,
            device=CPU,
            checkpoints=checkpoints,
            checkpoint_minutes=1e-9,
            on_step=on_step,
        )
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, result


def test_a_new_row_is_the_mean_of_what_it_stands_for_and_old_rows_stay(
    tiny_base: Path, tokenizer_folder: Path
) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    old = base.get_input_embeddings().weight.detach()
    model: Any = load_for_training(tiny_base, tokenizer_folder)
    weight = model.get_input_embeddings().weight
    torch.testing.assert_close(weight[: len(old)], old, rtol=0, atol=0)
    assert model.get_output_embeddings().weight is weight  # tied, still
    tokenizer = load_tokenizer(tiny_base)
    expected = [old[tokenizer.encode(text)].mean(0) for text in ("A:", "B:", "\n")] + [old.mean(0)]
    torch.testing.assert_close(weight[len(old) :], torch.stack(expected))


def test_every_parameter_moves(
    tiny_base: Path, tokenizer_folder: Path, rows: PackedRows, tmp_path: Path
) -> None:
    before = load_for_training(tiny_base, tokenizer_folder).state_dict()
    after, result = run(tiny_base, tokenizer_folder, rows, tmp_path)
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert result.log[-1]["loss"] < result.log[0]["loss"]


def test_steps_and_learning_rate_follow_the_formula(
    tiny_base: Path, tokenizer_folder: Path, rows: PackedRows, tmp_path: Path
) -> None:
    """Five batches, two per step, make three steps an epoch; warm-up over two, then linear to 0."""
    _, result = run(tiny_base, tokenizer_folder, rows, tmp_path)
    assert [entry["step"] for entry in result.log] == [1, 2, 3, 4, 5, 6]
    rates = [entry["learning_rate"] for entry in result.log]
    assert rates == pytest.approx([1e-2 * f for f in (0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4)])
    assert sum(entry["num_target_tokens"] for entry in result.log) == 2 * rows.num_target_tokens


def test_batches_times_accumulation_is_what_counts(
    tiny_base: Path, tokenizer_folder: Path, rows: PackedRows, tmp_path: Path
) -> None:
    """1 x 4 = 2 x 2 = 4 x 1, though windows differ in length and the last step is partial."""
    shapes = [(1, 4), (2, 2), (4, 1)]
    results = [
        run(
            tiny_base,
            tokenizer_folder,
            rows,
            tmp_path / str(batch_size),
            batch_size=batch_size,
            gradient_accumulation_steps=steps,
        )
        for batch_size, steps in shapes
    ]
    for weights, result in results[1:]:
        assert [entry["loss"] for entry in result.log] == pytest.approx(
            [entry["loss"] for entry in results[0][1].log], rel=1e-5
        )
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stopped_run_continues_to_the_same_weights(
    tiny_base: Path, tokenizer_folder: Path, rows: PackedRows, tmp_path: Path, stop_at: int
) -> None:
    """Stopped in epoch 1 or 2, before the step's checkpoint is written."""
    weights, result = run(tiny_base, tokenizer_folder, rows, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_base, tokenizer_folder, rows, tmp_path / "cut", stop_at=stop_at)
    again, resumed = run(tiny_base, tokenizer_folder, rows, tmp_path / "cut")
    assert resumed.timing.num_steps == 6 - (stop_at - 1)
    assert resumed.log == result.log
    for name, tensor in again.items():
        assert torch.equal(tensor, weights[name]), name


def test_a_loss_that_explodes_stops_the_run_at_its_step(
    tiny_base: Path, tokenizer_folder: Path, rows: PackedRows, tmp_path: Path
) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        base.transformer.h[0].mlp.c_fc.weight[0, 0] = math.nan
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"step 1: the loss is nan"):
        run(tmp_path / "base", tokenizer_folder, rows, tmp_path / "checkpoints")


def test_the_published_folder_is_complete_and_byte_stable(
    tiny_base: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model: Any = load_for_training(tiny_base, tokenizer_folder)
    for name in ("one", "two"):
        publish(model, tokenizer_folder, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(
        files
    )
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert str(tiny_base) not in (tmp_path / "one" / "config.json").read_text()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    settings = json.loads((tmp_path / "one" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|endofturn|>")
    assert settings["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|pad|>")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="states what a machine without a GPU does")
def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="fp16, which needs a GPU"):
        choose_device(precision="fp16", compile_model=False, num_threads=1)
