"""A chat template's text -> the token ids that a server reads."""

from __future__ import annotations

import re

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

MAX_PARTS = 4096
"""Parts of texts whose ids are kept."""


class ServedText:
    """Encodes a template's text as a server does: what spells a special token is one.

    Special tokens cut a text into parts that are encoded each by itself, so the parts that an
    earlier text had are not encoded again. Every rendering is proved to be so; a tokenizer for
    which it is not has its texts encoded in one go from then on.
    """

    in_parts = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take a tokenizer, of which a copy is used."""
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.encode_special_tokens = False
        borders = [
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        ]
        borders.sort(key=len, reverse=True)
        self._borders = re.compile(f"({'|'.join(map(re.escape, borders)) or '(?!)'})")
        self._parts: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the ids, from parts that are known."""
        if not self.in_parts:
            return self.whole(text)
        ids: list[int] = []
        for part in self._borders.split(text):
            known = self._parts.get(part)
            if known is None:
                if len(self._parts) == MAX_PARTS:
                    self._parts.clear()
                known = self._parts[part] = self.whole(part)
            ids += known
        return ids

    def whole(self, text: str) -> list[int]:
        """Return the ids of a text that is encoded in one go."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
