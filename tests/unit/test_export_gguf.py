"""The GGUF file holds the model: transformers' own reader of such files gives the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.conftest import TEXTS
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama
from tools.export_gguf import export
from tuning.run.errors import UserError
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.publishing import publish
from tuning.training.start import load_for_training

CHAT = [{"role": "user", "content": "whats up?"}, {"role": "assistant", "content": "im good"}]


def make_model(folder: Path, make: Callable[..., None]) -> Path:
    """A released model of which every part matters: weights far from their small first values."""
    make(folder / "base", TEXTS)
    prepare_tokenizer(folder / "base", folder / "tokenizer", 2)
    model = load_for_training(folder / "base", folder / "tokenizer", 64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    publish(model, folder / "tokenizer", folder / "model")
    return folder / "model"


def rounded(folder: Path) -> PreTrainedModel:
    """The model with its matrices as float16 holds them."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    return model


@pytest.mark.parametrize("make", [make_tiny_gpt2, make_tiny_llama])
def test_read_back_it_says_the_same(tmp_path: Path, make: Callable[..., None]) -> None:
    folder = make_model(tmp_path, make)
    export(folder, tmp_path / "model.gguf")
    found = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert read.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False) == ids
    with torch.inference_mode():
        expected, logits = (
            model(torch.tensor([ids])).logits[0] for model in (rounded(folder), found)
        )
    assert logits.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert read.convert_tokens_to_ids("<|endofturn|>") == read.eos_token_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "mamba models are not exported here"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "its positions are scaled"),
    ],
)
def test_what_cannot_be_exported_is_one_message(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = make_model(tmp_path, make_tiny_llama)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        export(folder, tmp_path / "model.gguf")
    with pytest.raises(UserError, match="it has no config.json"):
        export(tmp_path / "nothing", tmp_path / "model.gguf")


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, make_tiny_llama)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(content))
    names = json.loads((folder / "tokenizer_config.json").read_text())
    names["tokenizer_class"] = "PreTrainedTokenizerFast"  # GPT-2's own brings its own rules
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match="its tokenizer is not of GPT-2's kind"):
        export(folder, tmp_path / "model.gguf")
