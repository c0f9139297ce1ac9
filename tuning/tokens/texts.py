"""Text -> token ids, word by word where that gives the same ids; and token ids -> texts.

A corpus says the same words over and over, and looking one up is much quicker than finding its
tokens: 35 million characters of English chat, its words shuffled, took 6.1 s word by word and
15.3 s whole.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from unicodedata import normalize

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue

NUM_WORDS_KEPT = 2**17
"""Of some 20 MB in all. Half as many took 1.7 times as long: 26 million characters of English chat
have 92,000 of them, since punctuation belongs to a word."""
MAX_MEAN_LENGTH = 16
"""Characters per word. A text of longer ones (no spaces between words, encoded data) is not looked
up: its words come but once, and would fill the memory."""

_INCOMPLETE = "\ufffd"
"""The character that decoders give for bytes that are not a whole character."""

# White space as tokenizers define it: Python counts four control characters more.
_WORD = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+")


class TextEncoder:
    """Encodes texts as ``encode_texts`` does, and keeps the ids of their words."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take a tokenizer that gets no further tokens from here on."""
        self._tokenizer = tokenizer
        self._by_word = ends_tokens_with_words(tokenizer)
        self._words = _Words(self._encode)

    def __call__(self, text: str) -> list[int]:
        """The text's ids."""
        words = _WORD.findall(text) if self._by_word else []
        if len(text) > MAX_MEAN_LENGTH * len(words):
            return self._encode(text)
        ids = b"".join(map(self._words.__getitem__, words))
        return memoryview(ids).cast("i").tolist()

    def _encode(self, text: str) -> list[int]:
        return encode_texts(self._tokenizer, [text])[0]


class _Words(dict[str, bytes]):
    """Words' ids, as bytes of C ints, each found when it is first asked for.

    Joining bytes takes half the time that chaining lists takes, and their memory is a third.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """Begin without any."""
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        if len(self) == NUM_WORDS_KEPT:
            self.clear()  # least recently used ones alone: twice the time of every other word
        ids = self[word] = array("i", self._encode(word)).tobytes()
        return ids


class TextDecoder:
    """Decodes ids as the tokenizer does, marks included.

    By a table where tokens are bytes (GPT-2's kind): a quarter of the time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take a tokenizer that gets no further tokens from here on."""
        self._backend = tokenizer.backend_tokenizer
        self._bytes = _bytes_of_tokens(self._backend)

    def __call__(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no character become one that says so."""
        if self._bytes:
            return b"".join(map(self._bytes.__getitem__, ids)).decode(errors="replace")
        return str(self._backend.decode(ids, skip_special_tokens=False))


def _bytes_of_tokens(backend: Tokenizer) -> dict[int, bytes]:
    """Return the bytes that each token stands for; none where tokens are not bytes."""
    rules = backend.decoder and json.loads(backend.decoder.__getstate__())
    if not rules or rules["type"] != "ByteLevel":
        return {}
    two, three, four = range(0x800), range(0x800, 0x10000, 0x800), range(0x10000, 0x110000, 0x10000)
    every = "".join(chr(one) for one in chain(two, three, four) if not 0xD800 <= one < 0xE000)
    # It holds each byte that is in any text.
    spelled = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(every)
    in_texts = zip("".join(part for part, _ in spelled), every.encode(), strict=True)
    table = dict.fromkeys(ByteLevel.alphabet(), 0xFF) | dict(in_texts)
    return {
        number: bytes(map(table.__getitem__, token))
        if table.keys() >= set(token)
        else token.encode()
        for token, number in backend.get_vocab(with_added_tokens=True).items()
    }


def ends_tokens_with_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Tell whether a text's ids are those of its words, each with the white space before it.

    True of GPT-2's rules (SmolLM2's and many others'): one token never holds both a character and
    white space after it, and which tokens stand before such a border does not depend on what stands
    behind it. Other rules are not looked into.
    """
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    if not all(token.special for token in backend.get_added_tokens_decoder().values()):
        return False  # it is found in any text before all other rules, and may hold white space
    rules = json.loads(backend.pre_tokenizer.__getstate__())
    *others, last = rules["pretokenizers"] if rules["type"] == "Sequence" else [rules]
    return (
        backend.encode_special_tokens
        and all(rule["type"] == "Digits" for rule in others)
        and last["type"] == "ByteLevel"
        and last["use_regex"]
        and not last["add_prefix_space"]
    )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; the fast form leaves out offsets, which take a third of the time."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def encode_behind(
    tokenizer: PreTrainedTokenizerFast, before: str, texts: Sequence[str]
) -> list[list[int]]:
    """Ids of each text where it stands behind another one.

    Llama 2's tokenizer and its like put a space before any text, so a part of a line, encoded
    alone, has one too many. Where a token holds the end of ``before`` and more, the text's own ids.
    """
    first, *whole = encode_texts(tokenizer, [before, *(before + text for text in texts)])
    return [
        ids[len(first) :] if ids[: len(first)] == first else encode_texts(tokenizer, [text])[0]
        for ids, text in zip(whole, texts, strict=True)
    ]


def is_same_text(text: str, decoded: str) -> bool:
    """Tell whether two texts differ in their Unicode composition at most."""
    return text == decoded or normalize("NFKC", text) == normalize("NFKC", decoded)


def gives_back(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> bool:
    """Tell whether decoding the ids of each turn's text gives it back, in any composition."""
    texts = [turn.text for turn in dialogue.turns]
    decode = tokenizer.backend_tokenizer.decode_batch
    decoded = decode(encode_texts(tokenizer, texts), skip_special_tokens=False)
    return all(map(is_same_text, texts, decoded))


def token_texts(
    tokenizer: PreTrainedTokenizerFast, input_ids: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """Texts of consecutive tokens, each with how many tokens it is.

    Tokens that end inside a character are joined with those that complete it. Each is decoded after
    the one before it: some tokenizers drop the space of a text's first token.
    """
    decode = tokenizer.backend_tokenizer.decode
    before: list[int] = []
    group: list[int] = []
    text = ""
    for token_id in input_ids:
        group.append(token_id)
        start = len(decode(before, skip_special_tokens=False))
        text = decode(before + group, skip_special_tokens=False)[start:]
        if not text.endswith(_INCOMPLETE) or encode_texts(tokenizer, [text])[0] == group:
            yield text, len(group)
            before, group = group, []
    if group:  # a window's end cuts a character in two
        yield text, len(group)
