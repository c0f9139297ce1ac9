"""The tokenizer of a model folder, set to encode all of a text and nothing but the text."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in ``folder``, set to encode all of a text and nothing but the text.

    Special tokens spelled in it are plain text. A tokenizer that was saved after a truncated or
    padded call would otherwise go on cutting and padding.
    """
    config = folder / "tokenizer_config.json"
    names = json.loads(config.read_bytes()) if config.exists() else {}
    if names.get("tokenizer_class") == PreTrainedTokenizerFast.__name__:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:  # only the model's configuration tells; reading it takes two seconds, with torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "fetch takes fast tokenizers only"
    read_all_as_text(tokenizer)
    return tokenizer


def read_all_as_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make a tokenizer encode as ``load_tokenizer`` says; pickling one forgets it."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def first_token(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The token with which a tokenizer begins every text of its own accord; none if it does not."""
    ids = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return list(ids[:1]) if ids[:1] == [tokenizer.bos_token_id] else []


def special_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that no text holds."""
    return [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
