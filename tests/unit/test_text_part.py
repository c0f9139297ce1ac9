"""Of a model that reads images too, fetch takes the language model, whole and alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from benchmarks.families import FAMILIES, SIZES
from stages.fetch import fetch_base_model
from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_llama
from tuning.language_model.loading import load_plain_model
from tuning.run.errors import UserError
from tuning.sources.text_part import name_in_text_part

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 16,
}
NUM_TOKENS = 404
PARTS = {
    "gemma3": ("gemma3_text", {"mm_tokens_per_image": 4, "image_token_index": 3}),
    "mistral3": ("mistral", {"image_token_index": 3}),
    "llava": ("llama", {"image_token_index": 3}),
    "qwen3_5": ("qwen3_5_text", {}),
}
"""Of each kind, that of its language model."""


def whole_model(kind: str) -> PreTrainedModel:
    text, settings = PARTS[kind]
    sizes = SIZES | FAMILIES[text].settings | {"vocab_size": NUM_TOKENS}
    vision = {"model_type": "siglip_vision_model"} if kind == "gemma3" else {}
    config = AutoConfig.for_model(
        kind,
        text_config=sizes | {"model_type": text},
        vision_config=VISION | vision,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    whole: PreTrainedModel = model.eval()
    return whole


@pytest.fixture(scope="module", params=PARTS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16, in two files with an index."""
    folder: Path = tmp_path_factory.mktemp("whole") / request.param
    make_tiny_llama(folder, TEXTS)
    (folder / "model.safetensors").unlink()
    whole_model(request.param).save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            json.loads((folder / "tokenizer_config.json").read_bytes())
            | {"processor_class": "AnyProcessor"}
        ),
        encoding="utf-8",
    )
    return folder


def test_the_text_part_says_what_the_whole_says_of_texts(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len([*whole.glob("*.safetensors")]) > 1
    fetch_base_model(str(whole), None, tmp_path / "base")
    assert "reads more than text; its text part alone is taken" in capsys.readouterr().out
    part: Any = load_plain_model(tmp_path / "base", dtype=torch.bfloat16)
    assert part.config.model_type == PARTS[whole.name][0]
    everything: Any = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.bfloat16)
    ids = torch.arange(20, 60)[None]
    with torch.inference_mode():
        assert torch.equal(part(ids).logits, everything(input_ids=ids).logits)
    sizes = [sum(each.numel() for each in one.parameters()) for one in (part, everything)]
    assert sizes[0] < sizes[1]
    tokenizer = json.loads((tmp_path / "base/tokenizer_config.json").read_bytes())
    assert "processor_class" not in tokenizer


def test_one_file_is_as_good_as_two(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    make_tiny_llama(whole, TEXTS)
    whole_model("llava").save_pretrained(whole)
    fetch_base_model(str(whole), None, tmp_path / "base")
    assert load_plain_model(tmp_path / "base").config.model_type == "llama"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"),
            "model.safetensors is damaged",
        ),
        (
            lambda folder: drop(folder, "norm.weight"),
            "its weights are not those of its config.json: model.norm.weight missing",
        ),
        (
            lambda folder: set_kind(folder, "qwen2_5_vl_text"),
            "transformers has no class for its text part alone. Name a model of text alone",
        ),
    ],
)
def test_what_cannot_be_taken_is_refused(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    whole = tmp_path / "whole"
    make_tiny_llama(whole, TEXTS)
    whole_model("llava").save_pretrained(whole)
    change(whole)
    with pytest.raises(UserError, match=message):
        fetch_base_model(str(whole), None, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def drop(folder: Path, ending: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: one for name, one in tensors.items() if not is_of_text(name, ending)}
    assert len(kept) == len(tensors) - 1
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def is_of_text(name: str, ending: str) -> bool:
    return name_in_text_part(name) == f"model.{ending}"


def set_kind(folder: Path, kind: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["model_type"] = "qwen2_5_vl"
    config["text_config"]["model_type"] = kind
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("language_model.norm.weight", "model.norm.weight"),
        ("vision_tower.encoder.layers.0.weight", None),
        ("model.visual.blocks.0.norm.weight", None),
        ("multi_modal_projector.linear.weight", None),
        ("mtp.layers.0.weight", None),
    ],
)
def test_names_in_whole_models_tell_their_part(key: str, own: str | None) -> None:
    assert name_in_text_part(key) == own
