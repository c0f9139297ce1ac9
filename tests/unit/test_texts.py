"""Looking words up gives the ids that the whole text has, or is not done at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, PreTokenizer, Sequence, Split
from transformers import AddedToken, PreTrainedTokenizerFast

from tests.thorough import few_or_all
from tuning.tokens.speaker_tokens import add_dialogue_tokens
from tuning.tokens.texts import (
    MAX_MEAN_LENGTH,
    TextDecoder,
    TextEncoder,
    encode_texts,
    ends_tokens_with_words,
)
from tuning.tokens.tokenizer import load_tokenizer

GPT2 = ByteLevel(add_prefix_space=False)
RULES: dict[str, Callable[[], PreTokenizer]] = {
    "GPT-2": lambda: GPT2,
    "SmolLM2": lambda: Sequence([Digits(individual_digits=True), GPT2]),
    "numbers whole": lambda: Sequence([Digits(individual_digits=False), GPT2]),
}
# White space of every kind (four that only Python counts as such), and what has rules of its own
CHARACTERS = " \n\t\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u3000\ufeff" + (
    "aeistvé_'!.-1٣½中🙂\u0301"
)
texts = st.one_of(
    st.text(CHARACTERS, max_size=20),
    st.lists(st.text(CHARACTERS, min_size=1, max_size=5), max_size=6).map(" ".join),
    st.text(st.characters(codec="utf-8"), max_size=20),
)


def with_rules(base: Path, rules: PreTokenizer) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(base)
    add_dialogue_tokens(tokenizer, 2)
    tokenizer.backend_tokenizer.pre_tokenizer = rules
    return tokenizer


@pytest.fixture(scope="module", params=list(RULES))
def tokenizer(request: pytest.FixtureRequest, tiny_base: Path) -> PreTrainedTokenizerFast:
    return with_rules(tiny_base, RULES[request.param]())


@given(st.lists(texts, max_size=4))
@settings(max_examples=few_or_all(300))
def test_word_by_word_is_as_whole(tokenizer: PreTrainedTokenizerFast, found: list[str]) -> None:
    assert ends_tokens_with_words(tokenizer)
    encoder = TextEncoder(tokenizer)
    for _ in range(2):  # the second time from memory
        assert [encoder(text) for text in found] == encode_texts(tokenizer, found)


@given(st.lists(texts, max_size=4), st.data())
@settings(max_examples=few_or_all(300))
def test_ids_are_decoded_as_the_tokenizer_does(
    tokenizer: PreTrainedTokenizerFast, found: list[str], data: st.DataObject
) -> None:
    decode = TextDecoder(tokenizer)
    assert [*map(decode, encode_texts(tokenizer, found))] == found
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=6))
    assert decode(ids) == tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def test_every_byte_and_mark_is_decoded_as_the_tokenizer_does(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.add_tokens([AddedToken("<|\uff5cмак\U00010000 |>", special=True)])
    decode, backend = TextDecoder(tokenizer), tokenizer.backend_tokenizer
    for ids in ([number] for number in range(len(tokenizer))):
        assert decode(ids) == backend.decode(ids, skip_special_tokens=False)
    for code in [*range(0xD800), *range(0xE000, 0x110000, 7)]:
        assert decode(encode_texts(tokenizer, [chr(code)])[0]) == chr(code)


def test_tokens_that_are_no_bytes_are_decoded_as_the_tokenizer_does(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    ids = encode_texts(tokenizer, ["a b 12  c"])[0]
    assert TextDecoder(tokenizer)(ids) == tokenizer.backend_tokenizer.decode(ids)


def test_long_words_are_not_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tokenizer)
    for text in ("x" * (MAX_MEAN_LENGTH + 1), "你好" * MAX_MEAN_LENGTH, "<|speaker1|>" * 2):
        assert encoder(text) == encode_texts(tokenizer, [text])[0]
    assert len(encoder._words) == 0
    encoder("x" * MAX_MEAN_LENGTH)
    assert len(encoder._words) == 1


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(ByteLevel(add_prefix_space=True), id="prefix-space"),
        pytest.param(ByteLevel(add_prefix_space=False, use_regex=False), id="no-words"),
        pytest.param(Metaspace(), id="metaspace"),
        pytest.param(Sequence([Split("a b", "isolated"), GPT2]), id="split"),
        pytest.param(Sequence([GPT2, Digits()]), id="order"),
    ],
)
def test_other_rules_are_not_trusted(tiny_base: Path, rules: PreTokenizer) -> None:
    tokenizer = with_rules(tiny_base, rules)
    assert not ends_tokens_with_words(tokenizer)
    text = "a b 12  c\n\nd"
    assert TextEncoder(tokenizer)(text) == encode_texts(tokenizer, [text])[0]


def test_a_token_that_is_found_in_any_text_is_not_cut_in_two(tiny_base: Path) -> None:
    tokenizer = with_rules(tiny_base, GPT2)
    tokenizer.add_tokens([AddedToken("new york", special=False)])
    assert TextEncoder(tokenizer)("in new york") == encode_texts(tokenizer, ["in new york"])[0]
    assert not ends_tokens_with_words(tokenizer)


def test_a_normalizer_or_special_tokens_in_the_text_are_not_trusted(tiny_base: Path) -> None:
    normalizing, finding = (with_rules(tiny_base, GPT2) for _ in range(2))
    normalizing.backend_tokenizer.normalizer = NFC()
    finding.backend_tokenizer.encode_special_tokens = False
    assert not ends_tokens_with_words(normalizing)
    assert not ends_tokens_with_words(finding)
