"""A tokenizer and its chat template as llama.cpp reads them: the part of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import AddedToken, PreTrainedTokenizerFast

from tuning.run.errors import UserError

OTHERWISE = "llama.cpp's convert_hf_to_gguf.py may take it"

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
PRE_TOKENIZERS = {
    "gpt-2": (["GPT-2's words"], False),
    "smollm": (["digits", "GPT-2's words"], False),
    "qwen2": ([_LETTERS + r"\p{N}" + _REST], False),
    "llama-bpe": ([_LETTERS + r"\p{N}{1,3}" + _REST], True),
    "dbrx": ([_LETTERS + r"\p{N}{1,3}" + _REST], False),
    "deepseek-v3": (
        [
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            _DEEPSEEK_PUNCTUATION + "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        ],
        False,
    ),
}
"""llama.cpp's names for rules of cutting a text before its tokens are looked up, and whether a part
that is a token as a whole is looked up as one. Mistral NeMo's are not among them: llama.cpp's
``tekken`` cuts Devanagari otherwise."""

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_KEEP_SPACES = {"<unk>", "<s>", "<|endoftext|>"}
"""Phi-3's special tokens that do not swallow the spaces behind them."""


def add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, folder: Path, *, num_rows: int
) -> None:
    """Add tokens by id, how texts are cut into them, what begins a text, and the chat template.

    Args:
        writer: Of a file whose header is not yet written.
        tokenizer: The tokenizer of ``folder``.
        folder: The model's, for messages.
        num_rows: Rows of the model's embeddings; those without a token get a name of their own.

    Raises:
        UserError: the tokenizer is neither of GPT-2's kind nor of SentencePiece's, or cuts texts by
            unknown rules.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added = tokenizer.added_tokens_decoder
    texts_of_added = {token.content for token in added.values()}
    is_bpe, space_first = content["model"]["type"] == "BPE", _space_first(content)
    name = _pre_tokenizer(content) if is_bpe else None
    is_pieces = is_bpe and space_first is not None
    scores = _scores(content["model"], texts_of_added) if is_pieces else None
    if name is None and scores is None:
        raise UserError(
            f"{folder}: its tokenizer is of neither GPT-2's kind nor SentencePiece's; {OTHERWISE}."
        )
    if any(token.rstrip or token.lstrip or token.single_word for token in added.values()):
        _check_like_phi(list(added.values()), folder)
        writer.add_name("phi-3")  # which tells llama.cpp that special tokens swallow spaces
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
    if scores is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(str(name))
        writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([scores.get(token, 0.0) for token in tokens])
        writer.add_add_space_prefix(bool(space_first))
        if isinstance(tokenizer.unk_token_id, int):
            types[tokenizer.unk_token_id] = gguf.TokenType.UNKNOWN
            writer.add_unk_token_id(tokenizer.unk_token_id)
        for id_, token in enumerate(tokens):
            if token in _BYTES:
                types[id_] = gguf.TokenType.BYTE
            elif types[id_] == gguf.TokenType.USER_DEFINED:  # found in texts as they are typed
                tokens[id_] = token.replace("▁", " ")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
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
    """Return llama.cpp's name for the rules of a tokenizer of GPT-2's kind, or None."""
    if _changes_text(content["normalizer"]):
        return None
    rules = content["pre_tokenizer"] or {}
    rules = rules["pretokenizers"] if rules.get("type") == "Sequence" else [rules]
    last = rules[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    found = [*map(_rule, rules[:-1]), *["GPT-2's words"] * last["use_regex"]]
    whole_first = bool(content["model"].get("ignore_merges"))
    return next((n for n, wanted in PRE_TOKENIZERS.items() if wanted == (found, whole_first)), None)


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


def _space_first(content: dict[str, Any]) -> bool | None:
    """Tell whether SentencePiece's kind puts a space before each text; None if it is another kind.

    transformers' Metaspace puts none before a text that begins with one, llama.cpp always: parity
    shows where a model's chats have such texts. It may put one before the first text alone: then
    llama.cpp is to put none, which is the same for chats that begin with a special token.
    """
    steps = content["normalizer"] or {"type": "Sequence", "normalizers": []}
    steps = steps["normalizers"] if steps["type"] == "Sequence" else [steps]
    rule = content["pre_tokenizer"] or {"type": "none"}
    if rule["type"] == "Metaspace" and rule["replacement"] == "▁" and not (rule["split"] or steps):
        return bool(rule["prepend_scheme"] == "always")
    finds_nothing = rule["type"] == "Split" and rule["pattern"] == {"String": " "}
    if steps[-1:] != [_BLANKS] or not (rule["type"] == "none" or finds_nothing):
        return None
    if before := steps[:-1]:
        return True if before == [{"type": "Prepend", "prepend": "▁"}] else None
    return False


def _scores(model: dict[str, Any], added: set[str]) -> dict[str, float] | None:
    """Return scores of pieces, the higher the earlier one is joined, or None if none are right.

    llama.cpp joins whatever two pieces are a third, best score first. So the merges must be all
    such pairs, and those of one piece must stand together. Pieces that are tokens of their own in
    any text do not matter.
    """
    vocabulary = model["vocab"]
    if not model["byte_fallback"] or model["ignore_merges"] or not vocabulary.keys() >= _BYTES:
        return None
    ranks: dict[str, list[int]] = {}
    for rank, (left, right) in enumerate(model["merges"]):
        ranks.setdefault(left + right, []).append(rank)
    for piece in vocabulary.keys() - added - _BYTES:
        num_pairs = sum(
            piece[:cut] in vocabulary and piece[cut:] in vocabulary for cut in range(1, len(piece))
        )
        found = ranks.get(piece, [])
        if len(found) != num_pairs or (len(piece) > 1 and not num_pairs):
            return None
        if found and found[-1] - found[0] != num_pairs - 1:
            return None
    return {piece: -float(found[0]) for piece, found in ranks.items()}


def _check_like_phi(added: list[AddedToken], folder: Path) -> None:
    """Raise ``UserError`` unless added tokens swallow spaces as llama.cpp lets those of Phi-3."""
    texts = {token.content for token in added}
    for token in added:
        wanted = (False, token.content not in _KEEP_SPACES, False)
        if (token.lstrip, token.rstrip, token.single_word) != wanted or not texts >= _KEEP_SPACES:
            raise UserError(
                f"{folder}: its token {token.content} takes spaces beside it, or does not, "
                f"otherwise than Phi-3's; {OTHERWISE}."
            )
