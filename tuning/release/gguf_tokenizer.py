"""A tokenizer and its chat template as llama.cpp reads them: the part of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedTokenizerFast

from tuning.run.errors import UserError

OTHERWISE = "llama.cpp's convert_hf_to_gguf.py may take it"

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
PRE_TOKENIZERS = {
    "gpt-2": ["GPT-2's words"],
    "smollm": ["digits", "GPT-2's words"],
    "qwen2": [_LETTERS + r"\p{N}" + _REST],
    "llama-bpe": [_LETTERS + r"\p{N}{1,3}" + _REST],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        _DEEPSEEK_PUNCTUATION + "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ],
}
"""llama.cpp's names for rules of cutting a text before its tokens are looked up. Mistral NeMo's are
not among them: llama.cpp's ``tekken`` cuts Devanagari otherwise."""


def add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, folder: Path, *, num_rows: int
) -> None:
    """Add tokens by id, merges, what begins and ends a text, and the chat template.

    Args:
        writer: Of a file whose header is not yet written.
        tokenizer: The tokenizer of ``folder``.
        folder: The model's, for messages.
        num_rows: Rows of the model's embeddings; those without a token get a name of their own.

    Raises:
        UserError: the tokenizer is of another kind than GPT-2's, or cuts texts by unknown rules.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    name = _pre_tokenizer(content)
    if content["model"]["type"] != "BPE" or _changes_text(content["normalizer"]) or name is None:
        raise UserError(f"{folder}: its tokenizer is not of GPT-2's kind; {OTHERWISE}.")
    added = tokenizer.added_tokens_decoder
    by_id = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for id_ in range(num_rows):
        if id_ not in by_id:  # a row that no text uses
            tokens.append(f"[PAD{id_}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(by_id[id_])
        special = id_ in added and added[id_].special
        ordinary = gguf.TokenType.USER_DEFINED if id_ in added else gguf.TokenType.NORMAL
        types.append(gguf.TokenType.CONTROL if special else ordinary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    if isinstance(tokenizer.bos_token_id, int):
        writer.add_bos_token_id(tokenizer.bos_token_id)  # chat templates write it by name
    writer.add_add_bos_token(False)
    writer.add_chat_template(str(tokenizer.chat_template))


def write_vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path, file: Path) -> None:
    """Write a model of no use but for its tokenizer: a layer of 32 dimensions, all of it zero.

    Raises:
        UserError: as ``add_tokenizer``.
    """
    num_rows, size = 1 + max(tokenizer.get_vocab().values()), 32
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(num_rows)
    writer.add_context_length(64)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(size)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size)
    add_tokenizer(writer, tokenizer, folder, num_rows=num_rows)
    if isinstance(tokenizer.eos_token_id, int):
        writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_tensor("token_embd.weight", np.zeros((num_rows, size), np.float16))
    writer.add_tensor("output_norm.weight", np.zeros(size, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((size, size), np.float16))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pre_tokenizer(content: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for a tokenizer's rules, or None if it has none."""
    rules = content["pre_tokenizer"] or {}
    rules = rules["pretokenizers"] if rules.get("type") == "Sequence" else [rules]
    last = rules[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    found = [*map(_rule, rules[:-1]), *["GPT-2's words"] * last["use_regex"]]
    return next((name for name, wanted in PRE_TOKENIZERS.items() if found == wanted), None)


def _rule(rule: dict[str, Any]) -> str | None:
    """Return what a rule cuts out: each digit, or what a pattern finds; None if it does else."""
    if rule["type"] == "Digits":
        return "digits" if rule["individual_digits"] else None
    if rule["type"] == "Split" and rule["behavior"] == "Isolated" and not rule["invert"]:
        pattern: str | None = rule["pattern"].get("Regex")
        return pattern
    return None


def _changes_text(normalizer: dict[str, Any] | None) -> bool:
    """Tell whether a text is changed before it is cut, by more than composing its characters."""
    if normalizer is None or normalizer["type"] == "NFC":
        return False
    return normalizer["type"] != "Sequence" or any(map(_changes_text, normalizer["normalizers"]))
