"""Small random models of the families that are exported, with tokenizers of their kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM

from tests.conftest import TEXTS
from tests.tiny_model import MAX_POSITIONS, make_tiny_llama
from tuning.release.gguf_tokenizer import PRE_TOKENIZERS
from tuning.run.files import write_json
from tuning.template_record import read_record
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.tokenizer import load_tokenizer

SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
}


def make_base(folder: Path, kind: str) -> Path:
    """Write a base model's tokenizer (and a Llama): ``pieces …``, or one of ``PRE_TOKENIZERS``."""
    make_tiny_llama(folder, TEXTS, like="llama2" if kind.startswith("pieces") else "gpt2")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if kind == "pieces, no space first":  # Gemma
        content["normalizer"] = content["normalizer"]["normalizers"][-1]
    elif kind == "pieces, newer":  # what transformers makes of Llama 2
        rule = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
        content |= {"normalizer": None, "pre_tokenizer": rule}
    elif kind != "pieces" and kind != "gpt-2":
        (pattern,), whole_first = PRE_TOKENIZERS[kind]
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        rules = [split | {"invert": False}, last | {"use_regex": False}]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": rules}
        content["model"]["ignore_merges"] = whole_first
        content["post_processor"] = None
    write_json(folder / "tokenizer.json", content)
    names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(
        folder / "tokenizer_config.json", names | {"tokenizer_class": "PreTrainedTokenizerFast"}
    )
    return folder


def make_family(folder: Path, model_type: str, kind: str, settings: Mapping[str, Any]) -> Path:
    """Write a model as release would: tokens for two speakers, weights far from alike.

    Embeddings are small, so that layers decide what is written.
    """
    model_folder = folder / "model"
    prepare_tokenizer(make_base(folder / "base", kind), model_folder, 2)
    record = read_record(model_folder)
    assert record is not None
    tokenizer = load_tokenizer(model_folder)
    sizes = SIZES | {"n_positions": MAX_POSITIONS} if model_type != "gpt2" else {"n_embd": 64}
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|endofturn|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **({**sizes, **ids, **settings}))
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_looked_up = "embed" in name or "wte" in name or "wpe" in name
                parameter.add_((0.01 if is_looked_up else 0.25) * torch.randn_like(parameter))
    model.generation_config.eos_token_id = record.stop_ids
    model.save_pretrained(model_folder)
    return model_folder


def add_phi_tokens(folder: Path) -> None:
    """Give a tokenizer the special tokens of Phi-3, most of which swallow the spaces behind."""
    tokenizer = load_tokenizer(folder)
    marks = {"<unk>": False, "<s>": False, "</s>": True}
    marks |= dict.fromkeys(("<|user|>", "<|assistant|>", "<|end|>"), True)
    tokenizer.add_tokens(
        [
            AddedToken(mark, special=True, normalized=False, rstrip=rstrip)
            for mark, rstrip in marks.items()
        ],
        special_tokens=True,
    )
    tokenizer.chat_template = (
        "{{ '<s>' }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
