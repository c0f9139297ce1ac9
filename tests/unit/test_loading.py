"""A loaded model keeps texts apart: in one row, or in rows of their own, or it is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from benchmarks.families import FAMILIES, small_model
from tuning.language_model.loading import (
    LENGTHS,
    NEAREST,
    load_plain_model,
    num_visible,
    reads_alone,
)
from tuning.run.errors import UserError

ATTENTION_ALONE = [
    *("llama", "gpt2", "qwen2", "qwen3", "gemma", "phi3", "olmo2", "opt", "qwen3_moe"),
    *("mistral", "gemma3_text", "ministral", "llama4_text"),  # some layers look back less far
    *("gemma2", "gpt_oss"),  # attention of their own
]
OF_OTHER_LAYERS = ["lfm2", "granitemoehybrid", "qwen3_5_text", "falcon_h1", "bamba", "falcon_mamba"]


def saved(folder: Path, kind: str, **settings: Any) -> Path:
    small_model(kind, **settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ATTENTION_ALONE)
def test_attention_alone_keeps_texts_in_one_row_apart(tmp_path: Path, kind: str) -> None:
    model = load_plain_model(saved(tmp_path, kind))
    assert not reads_alone(model)
    assert model.dtype == torch.float32
    assert not model.training
    near = FAMILIES[kind].settings.get("sliding_window")
    assert getattr(model.config, "sliding_window", None) == near  # as before it was asked


@pytest.mark.parametrize("kind", OF_OTHER_LAYERS)
def test_a_layer_that_reads_past_the_mask_is_found(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path, kind)
    for dtype in (torch.float32, torch.bfloat16):
        assert reads_alone(load_plain_model(folder, dtype=dtype))


@pytest.mark.parametrize(
    "kind", ["exaone4", "gemma4_text", "glm4", "gpt_oss", "phimoe", "granitemoehybrid", "mamba2"]
)
def test_rounding_is_not_taken_for_another_text(tmp_path: Path, kind: str) -> None:
    """In bfloat16 some logits move by their own size, as where a token goes to another expert."""
    folder = saved(tmp_path, kind)
    is_alone = reads_alone(load_plain_model(folder))
    assert reads_alone(load_plain_model(folder, dtype=torch.bfloat16)) == is_alone


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_a_model_with_weights_that_are_no_numbers_is_refused(tmp_path: Path, kind: str) -> None:
    model = small_model(kind)
    with torch.no_grad():
        [each for each in model.model.layers.parameters() if each.ndim == 2][-1][0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is not a number.*Download or save it again"):
        load_plain_model(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("rwkv", {}), ("gemma3_text", {"use_bidirectional_attention": True})],
    ids=["of-the-library-s-oldest-kind", "a-token-sees-the-next"],
)
def test_a_model_whose_rows_cannot_be_filled_up_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    message = f"model.name: {kind} models cannot be used here.* depends on the texts beside it"
    with pytest.raises(UserError, match=message):
        load_plain_model(saved(tmp_path, kind, **settings))


def rewrite(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | settings), encoding="utf-8")
    return folder


def test_the_attention_is_ours_whatever_the_configuration_says(tmp_path: Path) -> None:
    model = load_plain_model(
        rewrite(saved(tmp_path, "llama"), _attn_implementation="someone/kernel")
    )
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_is_built_and_does_not_run_is_refused(tmp_path: Path) -> None:
    folder = rewrite(saved(tmp_path, "mixtral"), num_experts_per_tok=99)
    with pytest.raises(UserError, match="cannot run this model .*out of range"):
        load_plain_model(folder)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("gpt2", {"n_positions": 24}, 24),
        ("llama", {"max_position_embeddings": 99}, 99),
        ("mistral", {"max_position_embeddings": 99, "sliding_window": 30}, 99),
        ("mamba", {}, sys.maxsize),
    ],
)
def test_a_text_is_as_long_as_there_are_positions(
    kind: str, settings: dict[str, Any], expected: int
) -> None:
    assert num_visible(AutoConfig.for_model(kind, **settings)) == expected
    assert max(LENGTHS) < 20


def test_texts_of_the_trial_are_longer_than_a_layer_looks_back() -> None:
    assert min(LENGTHS) > NEAREST
