"""The GGUF file holds the model: llama.cpp writes the same tokens as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.gguf_models import add_phi_tokens, make_base, make_family
from tests.llama_cpp_greedy import greedy
from tools.export_gguf.gguf_file import TYPES, export
from tuning.release import llama_cpp
from tuning.release.gguf_tokenizer import write_vocabulary
from tuning.run.errors import UserError
from tuning.run.files import write_json
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.tokenizer import load_tokenizer, special_ids

NUM_TOKENS = 40
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
GEMMA = {"head_dim": 32}
GEMMA2 = GEMMA | {"query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 4}
GEMMA3_ROPE = {
    "full_attention": LINEAR_ROPE | {"rope_theta": 50_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
}
WINDOWS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
SPECIAL = "pieces, no space first"
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("gpt2", "gpt-2", {"n_layer": 3, "n_head": 4}),
    "Llama 2": ("llama", "pieces", {"tie_word_embeddings": True}),
    "Llama 2 in newer words, slowed": ("llama", "pieces, newer", {"rope_parameters": LINEAR_ROPE}),
    "Llama 3": ("llama", "llama-bpe", {"head_dim": 32}),
    "Llama 3.1": ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE}),
    "Mistral": ("mistral", "pieces", {"sliding_window": 128}),
    "Qwen 2": ("qwen2", "qwen2", {}),
    "Qwen 3": ("qwen3", "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
    "Gemma": ("gemma", SPECIAL, GEMMA),
    "Gemma 2": ("gemma2", SPECIAL, GEMMA2),
    "Gemma 3": ("gemma3_text", SPECIAL, GEMMA2 | {"layer_types": WINDOWS}),
    "Gemma 3, slowed": (
        "gemma3_text",
        SPECIAL,
        GEMMA2 | {"layer_types": WINDOWS, "rope_parameters": GEMMA3_ROPE},
    ),
    "Phi-3": ("phi3", "pieces", {}),
    "Phi-4": ("phi3", "dbrx", {}),
}
"""Model types, kinds of tokenizer and settings."""
CHAT = [
    {"role": "user", "content": "Hello!  whats  up?\n\n1234 ☺ naïve, it'S"},
    {"role": "assistant", "content": "im good \n"},
    {"role": "user", "content": "haha"},
]


def written(folder: Path, prompt: list[int]) -> list[int]:
    """What transformers writes behind a prompt, in float32, but for special tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    ids = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=NUM_TOKENS,
        eos_token_id=None,
        suppress_tokens=special_ids(load_tokenizer(folder)),
    )
    found: list[int] = ids[0, len(prompt) :].tolist()
    return found


def prompt_of(folder: Path, chat: list[dict[str, str]] = CHAT) -> Any:
    return load_tokenizer(folder).apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_writes_the_same_tokens(tmp_path: Path, family: str) -> None:
    folder = make_family(tmp_path, *FAMILIES[family])
    file = tmp_path / "model.gguf"
    export(folder, file, kind="f32")
    prompt = prompt_of(folder)
    expected = written(folder, prompt)
    assert len(set(expected)) > 8
    found = greedy(file, prompt, special_ids(load_tokenizer(folder)), NUM_TOKENS)
    assert found == expected
    assert llama_cpp.feed(file, [{"messages": CHAT}]) == [prompt]


@pytest.mark.parametrize("kind", ["pieces", SPECIAL, "qwen2"])
def test_texts_that_begin_with_spaces_are_cut_alike(tmp_path: Path, kind: str) -> None:
    prepare_tokenizer(make_base(tmp_path / "base", kind), tmp_path / "model", 2)
    write_vocabulary(load_tokenizer(tmp_path / "model"), tmp_path, tmp_path / "vocabulary.gguf")
    chat = [{"role": "user", "content": text} for text in ("  oh", "\n", "\t hello \n hi")]
    ids = prompt_of(tmp_path / "model", chat)
    assert llama_cpp.feed(tmp_path / "vocabulary.gguf", [{"messages": chat}]) == [ids]


def test_a_word_that_no_merges_make_is_a_token_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    """Llama 3's, not Phi-4's, which cuts texts by the same rules."""
    cut = []
    for kind in ("llama-bpe", "dbrx"):
        base = make_base(tmp_path / kind, kind)
        content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
        merges = content["model"]["merges"]
        last = max(n for n, pair in enumerate(merges) if "".join(pair)[1:].isalpha())
        word = "".join(merges.pop(last)).replace("Ġ", " ")
        write_json(base / "tokenizer.json", content)
        prepare_tokenizer(base, tmp_path / f"{kind} model", 2)
        chat = [{"role": "user", "content": word}]
        ids = prompt_of(tmp_path / f"{kind} model", chat)
        tokenizer = load_tokenizer(tmp_path / f"{kind} model")
        write_vocabulary(tokenizer, base, tmp_path / "vocabulary.gguf")
        assert llama_cpp.feed(tmp_path / "vocabulary.gguf", [{"messages": chat}]) == [ids]
        cut.append(len(ids))
    assert cut[0] < cut[1]


def test_a_smaller_type_is_a_smaller_file_that_llama_cpp_takes(tmp_path: Path) -> None:
    folder = make_family(tmp_path, *FAMILIES["Qwen 3"])
    prompt, sizes = prompt_of(folder), []
    for kind in TYPES:
        export(folder, tmp_path / kind, kind=kind)
        sizes.append((tmp_path / kind).stat().st_size)
        assert greedy(tmp_path / kind, prompt, [], 1)
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3]


def test_bfloat16_weights_are_written_as_they_are(tmp_path: Path) -> None:
    """As a base model of today has them, and in several files."""
    folder = make_family(tmp_path, *FAMILIES["Llama 3"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    prompt = prompt_of(folder)
    for kind in ("f32", "f16"):
        export(folder, tmp_path / kind, kind=kind)
    found = greedy(tmp_path / "f32", prompt, special_ids(load_tokenizer(folder)), NUM_TOKENS)
    assert found == written(folder, prompt)


def test_what_float16_does_not_hold_is_refused(tmp_path: Path) -> None:
    folder = make_family(tmp_path, *FAMILIES["Llama 3"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = 70_000.0
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"blk\.1\.ffn_up\.weight is beyond float16; .*bf16"):
        export(folder, tmp_path / "model.gguf")
    export(folder, tmp_path / "model.gguf", kind="bf16")


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("Llama 3", {"model_type": "mamba"}, "mamba models are not exported here"),
        ("Llama 3", {"attention_bias": True}, "its attention_bias is True"),
        ("Llama 3", {"hidden_act": "gelu"}, "its hidden_act is 'gelu', and is exported as 'silu'"),
        (
            "Llama 3",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
            r"its positions are scaled \(yarn\)",
        ),
        ("Qwen 2", {"rope_parameters": LINEAR_ROPE}, r"its positions are scaled \(linear\)"),
        ("Qwen 3", {"use_sliding_window": True}, "its use_sliding_window is True"),
        ("Gemma", {"tie_word_embeddings": False}, "its tie_word_embeddings is False"),
        ("Gemma 2", {"query_pre_attn_scalar": 16}, "its query_pre_attn_scalar is 16"),
        ("Gemma 3", {"layer_types": [*WINDOWS[::-1]]}, "its layer_types is"),
        ("Gemma 3", {"final_logit_softcapping": 30.0}, "its final_logit_softcapping is 30.0"),
        (
            "Phi-4",
            {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e4}},
            "it turns a part of each head alone",
        ),
        ("GPT-2", {"activation_function": "relu"}, "its activation_function is 'relu'"),
    ],
)
def test_what_is_not_proved_is_one_message(
    tmp_path: Path, family: str, settings: dict[str, Any], message: str
) -> None:
    folder = make_family(tmp_path, *FAMILIES[family])
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | settings)
    with pytest.raises(UserError, match=message):
        export(folder, tmp_path / "model.gguf")


def test_a_folder_without_a_model_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has no config.json"):
        export(tmp_path / "nothing", tmp_path / "model.gguf")


def test_a_context_longer_than_a_window_that_llama_cpp_does_not_know_is_not_promised(
    tmp_path: Path,
) -> None:
    from gguf import GGUFReader

    folder = make_family(tmp_path, *FAMILIES["Mistral"])
    export(folder, tmp_path / "model.gguf")
    field = GGUFReader(tmp_path / "model.gguf").get_field("llama.context_length")
    assert field is not None and field.contents() == 128


def change_first_space(content: dict[str, Any]) -> None:
    content["normalizer"]["normalizers"][0]["prepend"] = "_"


def forget_a_merge(content: dict[str, Any]) -> None:
    del content["model"]["merges"][7]


def part_merges_of_a_piece(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    joined = ["".join(pair) for pair in merges]
    merges.append(merges.pop(next(n for n, one in enumerate(joined) if joined.count(one) > 1)))


@pytest.mark.parametrize("change", [change_first_space, forget_a_merge, part_merges_of_a_piece])
def test_pieces_that_are_joined_otherwise_are_refused(tmp_path: Path, change: Any) -> None:
    base = make_base(tmp_path / "base", "pieces")
    write_vocabulary(load_tokenizer(base), base, tmp_path / "vocabulary.gguf")
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    write_json(base / "tokenizer.json", content)
    with pytest.raises(UserError, match="neither GPT-2's kind nor SentencePiece's"):
        write_vocabulary(load_tokenizer(base), base, tmp_path / "vocabulary.gguf")


def test_a_space_before_words_of_gpt_2s_kind_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt-2")
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    content["pre_tokenizer"]["add_prefix_space"] = True
    write_json(base / "tokenizer.json", content)
    with pytest.raises(UserError, match="neither GPT-2's kind nor SentencePiece's"):
        write_vocabulary(load_tokenizer(base), base, tmp_path / "vocabulary.gguf")


def test_phi_3s_tokens_swallow_the_spaces_behind_them(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "pieces")
    add_phi_tokens(base)
    prepare_tokenizer(base, tmp_path / "model", 0, choice="chat", has_roles=True)
    folder = tmp_path / "model"
    ids = prompt_of(folder)
    write_vocabulary(load_tokenizer(folder), folder, tmp_path / "vocabulary.gguf")
    assert llama_cpp.feed(tmp_path / "vocabulary.gguf", [{"messages": CHAT}]) == [ids]
    prepare_tokenizer(base, tmp_path / "people", 2)
    with pytest.raises(UserError, match="takes spaces beside it"):
        write_vocabulary(load_tokenizer(tmp_path / "people"), tmp_path / "people", tmp_path / "no")
