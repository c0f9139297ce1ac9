"""The model that training starts from and leaves behind, and the steps between."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tests.training_runs import (
    CPU,
    DEFAULTS,
    LORA,
    MAX_LENGTH,
    VALIDATION_WINDOWS,
    WINDOWS,
    Start,
    check_close,
    check_continues,
    load,
    moved,
    num_targets,
    pack_rows,
    run,
    start_from,
    window_nll,
)
from tuning.language_model.device import choose_device
from tuning.run.errors import UserError
from tuning.run.params import LoraParams
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training import attention_cpu as attention
from tuning.training import passes, trainer
from tuning.training.checkpoint import CheckpointFolder
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.schedule import Schedule
from tuning.training.start import load_for_training
from tuning.training.trainer import VALIDATION_LOSS


@pytest.fixture(scope="module")
def gpt2(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return start_from(tiny_base, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def dropping_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """The same weights; a tenth of everything that GPT-2 can drop is dropped."""
    folder: Path = tmp_path_factory.mktemp("dropping")
    make_tiny_gpt2(folder / "base", TEXTS, dropout=0.1)
    return start_from(folder / "base", folder / "tokenizer")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder: Path = tmp_path_factory.mktemp("llama")
    make_tiny_llama(folder / "base", TEXTS)
    return start_from(folder / "base", folder / "tokenizer")


@pytest.fixture(params=["gpt2", "llama"])
def start(request: pytest.FixtureRequest) -> Start:
    """One with tied embeddings, biases and dropout layers, one without."""
    found: Start = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    """Five batches of two, two batches a step: three steps an epoch, the last of half as many."""
    packed = pack_rows(tmp_path_factory.mktemp("rows"), WINDOWS)
    assert len(packed) == 10
    assert max(len(row) for row in packed.rows) > 2
    return packed


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    """Not a whole number of batches."""
    packed = pack_rows(tmp_path_factory.mktemp("validation"), VALIDATION_WINDOWS)
    assert len(packed) % 2 == 1
    return packed


def test_a_new_row_is_the_mean_of_what_it_stands_for_and_old_rows_stay(start: Start) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(start.base, dtype=torch.float32)
    model: Any = load_for_training(start.base, start.tokenizer, MAX_LENGTH)
    tokenizer = load_tokenizer(start.base)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old = getattr(base, layer)().weight.detach()
        weight = getattr(model, layer)().weight
        torch.testing.assert_close(weight[: len(old)], old, rtol=0, atol=0)
        means = [old[tokenizer.encode(text)].mean(0) for text in ("A:", "B:", "\n")]
        torch.testing.assert_close(weight[len(old) :], torch.stack([*means, old.mean(0)]))


def test_windows_longer_than_the_positions_are_refused(gpt2: Start) -> None:
    message = "encoding.max_length: this model has only 1024 positions; set it to 1024 or less"
    with pytest.raises(UserError, match=message):
        load_for_training(gpt2.base, gpt2.tokenizer, 1025)


def test_every_parameter_moves_and_tied_embeddings_stay_tied(
    start: Start, rows: PackedRows, tmp_path: Path
) -> None:
    model, _ = load(start)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = run(start, rows, tmp_path, model=model, weight_decay=0.0)
    assert moved(before, after.weights) == before.keys()
    assert after.log[-1]["loss"] < after.log[0]["loss"]
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (
        is_tied
        == model.config.tie_word_embeddings
        == ("lm_head.weight" not in dict(model.named_parameters()))
    )


@pytest.mark.parametrize("max_grad_norm", [0.8, 1e-9])
def test_training_is_what_its_definition_says(
    start: Start, rows: PackedRows, tmp_path: Path, max_grad_norm: float
) -> None:
    """Nine steps, in plain PyTorch, one window at a time.

    The loss and its gradient are means over the targets of the whole step; the gradient is clipped,
    its norm logged as it was; AdamW decays matrices, not biases and norms; the learning rate rises
    over two steps and falls to 0 at the end. The norm lies on either side of 0.8; clipped to 1e-9,
    the gradient is below AdamW's epsilon, so it is what bounds the update.
    """
    changes: dict[str, Any] = {"epochs": 3, "max_grad_norm": max_grad_norm}
    found = run(start, rows, tmp_path, **changes)
    assert min(found.column("grad_norm")) < 0.8 < max(found.column("grad_norm"))

    model, _ = load(start)
    model.set_attn_implementation("eager")
    parameters = dict(model.named_parameters())
    kept = [each for name, each in parameters.items() if name.endswith("bias") or each.ndim == 1]
    decayed = [each for name, each in parameters.items() if not any(each is k for k in kept)]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    plan = Schedule(DEFAULTS.model_copy(update=changes), num_rows=len(rows), seed=7)
    log = []
    for step in range(9):
        windows = [WINDOWS[index] for row in plan.rows(step) for index in rows.rows[row]]
        loss = 0.0
        for window in windows:
            nll = window_nll(model, window) / num_targets(windows)
            nll.backward()
            loss += nll.item()
        gradients = [each.grad for each in parameters.values() if each.grad is not None]
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1, max_grad_norm / norm))
        rate = 2e-3 * (step / 2 if step < 2 else (9 - step) / 7)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        log.append(
            {
                "step": step + 1,
                "epoch": pytest.approx((step + 1) / 3),
                "loss": pytest.approx(loss, rel=1e-6),
                "num_target_tokens": num_targets(windows),
                "learning_rate": pytest.approx(rate),
                "grad_norm": pytest.approx(norm, rel=1e-5),
            }
        )
    assert found.log == log
    check_close(found.weights, model.state_dict(), 1e-5)


def test_batches_times_accumulation_is_what_counts(
    start: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """1 x 4 = 2 x 2 = 4 x 1; rows differ in targets, and the last step of an epoch in rows."""
    one, *others = [
        run(
            start,
            rows,
            tmp_path / str(batch_size),
            batch_size=batch_size,
            gradient_accumulation_steps=steps,
        )
        for batch_size, steps in [(1, 4), (2, 2), (4, 1)]
    ]
    for other in others:
        assert other.column("loss") == pytest.approx(one.column("loss"), rel=1e-6)
        check_close(other.weights, one.weights, 1e-5)


def test_what_weighs_alike_is_trained_as_without_weights(
    gpt2: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    """A step's loss is divided by its weights, so only their proportions count."""
    folders = [tmp_path / name for name in ("rows", "validation", "a", "b")]
    for folder in folders[:2]:
        folder.mkdir()
    light = pack_rows(folders[0], WINDOWS, [0.25] * len(WINDOWS))
    lightly = pack_rows(folders[1], VALIDATION_WINDOWS, [0.25] * len(VALIDATION_WINDOWS))
    expected = run(gpt2, rows, folders[2], validation=validation, eval_steps=2)
    found = run(gpt2, light, folders[3], validation=lightly, eval_steps=2)
    check_close(found.weights, expected.weights, 1e-5)
    for one, other in zip(found.result.log, expected.result.log, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(("most_rows", "expected"), [(1, 1), (2, 2), (3, 2), (8, 4)])
def test_a_cpu_takes_a_batch_in_passes(
    start: Start,
    rows: PackedRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_rows: int,
    expected: int,
) -> None:
    """Of as equal rows as may be, and never more than ``TOKENS_PER_PASS``: with the same result."""
    whole = run(start, rows, tmp_path / "whole", batch_size=4, gradient_accumulation_steps=1)
    sizes = []
    collate = PackedRows.collate

    def spy(self: PackedRows, taken: list[dict[str, Tensor]], size: int) -> dict[str, Tensor]:
        sizes.append(size)
        return collate(self, taken, size)

    monkeypatch.setattr(passes, "TOKENS_PER_PASS", most_rows * MAX_LENGTH + 1)
    monkeypatch.setattr(PackedRows, "collate", spy)
    parts = run(start, rows, tmp_path / "parts", batch_size=4, gradient_accumulation_steps=1)
    assert set(sizes) == {expected}
    assert parts.column("loss") == pytest.approx(whole.column("loss"), rel=1e-6)
    check_close(parts.weights, whole.weights, 1e-5)


def test_the_same_seed_gives_the_same_bytes(
    dropping_gpt2: Start, gpt2: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """Five runs, with dropout; another seed, or none dropped, gives others."""
    runs = [run(dropping_gpt2, rows, tmp_path / str(number)) for number in range(5)]
    for other in runs[1:]:
        assert not moved(runs[0].weights, other.weights)
        assert other.log == runs[0].log
    model, _ = load(dropping_gpt2)
    assert moved(runs[0].weights, run(gpt2, rows, tmp_path / "none dropped").weights)
    other = run(dropping_gpt2, rows, tmp_path / "other seed", model=model, seed=8)
    assert moved(runs[0].weights, other.weights)


@pytest.mark.parametrize("stop_at", [2, 5, 9])
@pytest.mark.parametrize("lora", [DEFAULTS.lora, LORA])
def test_a_stopped_run_continues_to_the_same_bytes(
    dropping_gpt2: Start, rows: PackedRows, tmp_path: Path, stop_at: int, lora: LoraParams
) -> None:
    """Stopped in epoch 1, 2 or 3, before the step's checkpoint is written; dropout is on."""
    changes: dict[str, Any] = {"epochs": 3, "lora": lora, "checkpoint_minutes": 1e-9}
    whole = check_continues(partial(run, dropping_gpt2, rows, **changes), tmp_path, stop_at=stop_at)
    assert len(whole.log) == 9


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_checkpoint_that_is_written_while_training_goes_on_is_of_its_own_step(
    dropping_gpt2: Start,
    rows: PackedRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    """As on a GPU: from a copy; each is whole when the run ends, or when it is stopped."""
    monkeypatch.setattr(trainer, "WRITTEN_BEHIND", ("cpu",))
    changes: dict[str, Any] = {"epochs": 3, "checkpoint_minutes": 1e-9}
    whole = check_continues(partial(run, dropping_gpt2, rows, **changes), tmp_path, stop_at=stop_at)
    assert len(whole.log) == 9


@pytest.mark.parametrize("num_passes", [1, 4, 7])
def test_an_interrupted_step_loses_no_step_before_it(
    dropping_gpt2: Start, rows: PackedRows, tmp_path: Path, num_passes: int
) -> None:
    """Ctrl-C in the middle of a step, long before a checkpoint is due."""
    whole = run(dropping_gpt2, rows, tmp_path / "whole", epochs=3)
    model, _ = load(dropping_gpt2)
    passes = iter(range(num_passes))

    def interrupt(*_: object) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    model.base_model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(dropping_gpt2, rows, tmp_path / "cut", model=model, epochs=3)
    with CheckpointFolder(tmp_path / "cut", "fingerprint") as checkpoints:
        newest = checkpoints.newest()
    num_made = newest.step if newest else 0
    assert bool(num_made) == (num_passes > 1)
    again = run(dropping_gpt2, rows, tmp_path / "cut", epochs=3)
    assert again.result.timing.num_steps == len(whole.log) - num_made
    assert again.log == whole.log
    assert not moved(again.weights, whole.weights)


def test_a_parameter_may_have_no_gradient(gpt2: Start, rows: PackedRows, tmp_path: Path) -> None:
    """It is saved and taken up with the others, and stays as it was."""
    changes: dict[str, Any] = {"checkpoint_minutes": 1e-9}
    expected = run(gpt2, rows, tmp_path / "whole", **changes)
    for stop_at in (4, None):
        model, _ = load(gpt2)
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(2, 3)))
        changes |= {"model": model, "stop_at": stop_at}
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                run(gpt2, rows, tmp_path / "cut", **changes)
    found = run(gpt2, rows, tmp_path / "cut", **changes)
    assert found.result.timing.num_steps == 3
    assert torch.equal(found.weights.pop("unused"), torch.ones(2, 3))
    assert not moved(found.weights, expected.weights)


def test_a_step_that_overflows_in_fp16_is_left_out(
    gpt2: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """Gradients are too large for the first scale; a run that continues counts AdamW's updates."""
    changes: dict[str, Any] = {
        "device": replace(CPU, precision="fp16"),
        "checkpoint_minutes": 1e-9,
        "epochs": 3,
    }

    def steep() -> Any:
        model: Any = load(gpt2)[0]
        with torch.no_grad():
            model.transformer.ln_f.weight.mul_(15)
        return model

    whole = run(gpt2, rows, tmp_path / "whole", model=steep(), **changes)
    assert "grad_norm" not in whole.log[0]
    assert len(whole.column("grad_norm")) > 4
    with pytest.raises(KeyboardInterrupt):
        run(gpt2, rows, tmp_path / "cut", model=steep(), stop_at=8, **changes)
    again = run(gpt2, rows, tmp_path / "cut", model=steep(), **changes)
    assert again.log == whole.log
    assert not moved(again.weights, whole.weights)


def test_a_validation_loss_that_is_not_finite_ends_the_run(
    llama: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    """The embedding of a token is broken that only the validation windows have."""
    model: Any = load(llama)[0]
    token = max(set(validation.windows.input_ids.tolist()) - set(rows.windows.input_ids.tolist()))
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    with pytest.raises(UserError, match="step 2: the validation loss is nan"):
        run(llama, rows, tmp_path, model=model, validation=validation, eval_steps=2)


def test_gradient_checkpointing_changes_nothing(
    dropping_gpt2: Start, rows: PackedRows, tmp_path: Path
) -> None:
    """What is computed again drops what was dropped before."""
    expected = run(dropping_gpt2, rows, tmp_path / "kept")
    found = run(dropping_gpt2, rows, tmp_path / "again", gradient_checkpointing=True)
    assert found.column("loss") == pytest.approx(expected.column("loss"), rel=1e-6)
    check_close(found.weights, expected.weights, 1e-6)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own workings
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no compiler")
def test_compiled_training_has_the_same_losses(
    llama: Start,
    rows: PackedRows,
    validation: PackedRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With and without gradient checkpointing; validations between the steps.

    Three pieces are compiled, none broken in two: a block in training, a block in validation (one
    for all blocks), the loss of a chunk.
    """
    monkeypatch.setattr(attention, "NUM_BLOCKS", 1)  # compiled in half the time
    compiled = replace(CPU, compiled=True)
    changes: dict[str, Any] = {"validation": validation, "eval_steps": 3}
    expected = run(llama, rows, tmp_path / "eager", **changes)
    counters.clear()
    for checkpointing in (False, True):
        changes["gradient_checkpointing"] = checkpointing
        found = run(llama, rows, tmp_path / str(checkpointing), device=compiled, **changes)
        for column in ("loss", "grad_norm", VALIDATION_LOSS):
            assert found.column(column) == pytest.approx(expected.column(column), rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 2 * 3
    assert not counters["graph_break"]


@pytest.mark.parametrize("start", ["dropping_gpt2", "llama"], indirect=True)
def test_the_validation_loss_is_nats_per_target_token(
    start: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    """After every fourth step and the last; long windows weigh more, and nothing is dropped."""
    found = run(start, rows, tmp_path, validation=validation, eval_steps=4)
    assert [entry["step"] for entry in found.log if VALIDATION_LOSS in entry] == [4, 6]
    assert [*found.validated] == [4, 6]
    model, _ = load(start)
    model.set_attn_implementation("eager")
    for step, weights in found.validated.items():
        model.load_state_dict(weights)
        with torch.no_grad():
            nll = sum(window_nll(model, window).item() for window in VALIDATION_WINDOWS)
        expected = nll / num_targets(VALIDATION_WINDOWS)
        assert found.log[step - 1][VALIDATION_LOSS] == pytest.approx(expected, rel=1e-6)


def test_validation_does_not_change_the_training(
    dropping_gpt2: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    """What is dropped after it is what is dropped without it."""
    without = run(dropping_gpt2, rows, tmp_path / "without")
    found = run(dropping_gpt2, rows, tmp_path / "with", validation=validation, eval_steps=1)
    assert not moved(found.weights, without.weights)
    assert [
        {name: value for name, value in entry.items() if name != VALIDATION_LOSS}
        for entry in found.log
    ] == without.log


RISING: dict[str, Any] = {
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "epochs": 4,
    "eval_steps": 2,
}
"""Of the six validation losses the second is the lowest."""


@pytest.mark.parametrize("checkpoint_minutes", [1e-9, 60])
def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    gpt2: Start,
    rows: PackedRows,
    validation: PackedRows,
    tmp_path: Path,
    checkpoint_minutes: float,
) -> None:
    """However often checkpoints are saved."""
    settings: dict[str, Any] = {"validation": validation, "checkpoint_minutes": checkpoint_minutes}
    last = run(gpt2, rows, tmp_path / "last", **settings, **RISING)
    best = run(gpt2, rows, tmp_path / "best", load_best_model_at_end=True, **settings, **RISING)
    assert best.log == last.log
    losses = best.column(VALIDATION_LOSS)
    assert len(losses) == 6
    assert losses.index(min(losses)) == 1
    assert best.result.best_step == last.result.best_step == 4
    assert not moved(best.weights, best.validated[4])
    assert not moved(last.weights, last.validated[12])


@pytest.mark.parametrize("stop_at", [None, 6])
@pytest.mark.parametrize(("patience", "num_steps"), [(1, 6), (2, 8), (4, 12)])
def test_training_stops_when_the_validation_loss_stays_above_its_lowest(
    gpt2: Start,
    rows: PackedRows,
    validation: PackedRows,
    tmp_path: Path,
    patience: int,
    num_steps: int,
    stop_at: int | None,
) -> None:
    """For so many validations in a row after the second; in one process or in two."""
    settings: dict[str, Any] = {
        "validation": validation,
        "checkpoint_minutes": 1e-9,
        "early_stopping_patience": patience,
        "load_best_model_at_end": True,
        **RISING,
    }
    if stop_at is not None:
        with pytest.raises(KeyboardInterrupt):
            run(gpt2, rows, tmp_path, stop_at=stop_at, **settings)
    stopped = run(gpt2, rows, tmp_path, **settings)
    assert len(stopped.log) == num_steps
    assert stopped.result.best_step == 4
    again = run(gpt2, rows, tmp_path, **settings)  # finds nothing left to do
    assert again.log == stopped.log
    assert not moved(again.weights, stopped.weights)


def test_a_new_lowest_validation_loss_renews_the_patience(
    llama: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    settings: dict[str, Any] = RISING | {"learning_rate": 0.03}
    found = run(llama, rows, tmp_path, validation=validation, early_stopping_patience=2, **settings)
    losses = found.column(VALIDATION_LOSS)
    assert [later < earlier for earlier, later in pairwise(losses)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert found.result.best_step == 12


def test_of_equal_losses_the_earliest_is_the_best(
    gpt2: Start, rows: PackedRows, validation: PackedRows, tmp_path: Path
) -> None:
    """And the later ones do not count as progress."""
    settings: dict[str, Any] = {"learning_rate": 1e-30, "weight_decay": 0.0, "eval_steps": 1}
    found = run(gpt2, rows, tmp_path, validation=validation, early_stopping_patience=3, **settings)
    assert len(set(found.column(VALIDATION_LOSS))) == 1
    assert found.result.best_step == 1
    assert len(found.log) == 4


def test_a_loss_that_explodes_stops_the_run_at_its_step(
    gpt2: Start, rows: PackedRows, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"step 3: the loss is nan"):
        run(gpt2, rows, tmp_path / "checkpoints", learning_rate=1e30)


def test_the_published_folder_is_complete_and_byte_stable(
    gpt2: Start, rows: PackedRows, tmp_path: Path
) -> None:
    model, _ = load(gpt2)
    run(gpt2, rows, tmp_path / "checkpoints", model=model, max_steps=1)
    for name in ("one", "two"):
        publish(model, gpt2.tokenizer, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(
        files
    )
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    config = (tmp_path / "one" / "config.json").read_text()
    assert str(gpt2.base) not in config
    assert "attn_implementation" not in config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    settings = json.loads((tmp_path / "one" / "generation_config.json").read_text())
    ends = ["<|endofturn|>", "<|endoftext|>", "<|speaker1|>", "<|speaker2|>", "<|pad|>"]
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids(ends)
    assert settings["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|pad|>")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="states what a machine without a GPU does")
def test_fp16_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="fp16, which needs a GPU"):
        choose_device(precision="fp16", compile_model=False, num_threads=1)


@pytest.mark.filterwarnings("ignore:put_ does not have a deterministic implementation")
def test_an_operation_in_no_fixed_order_is_said_and_the_run_goes_on(
    gpt2: Start, rows: PackedRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU: asked for what is deterministic, PyTorch refuses the others."""
    expected = run(gpt2, rows, tmp_path / "expected")
    model, _ = load(gpt2)

    def put(*_: object) -> None:
        if torch.is_grad_enabled():
            torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))

    model.base_model.register_forward_pre_hook(put)
    torch.use_deterministic_algorithms(True)
    try:
        found = run(gpt2, rows, tmp_path / "found", model=model)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert capsys.readouterr().err.count("put_ adds in no fixed order on this device") == 1
    assert found.log == expected.log
    assert not moved(found.weights, expected.weights)
