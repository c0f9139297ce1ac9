"""The baselines are probability distributions over texts, and behave like the n-grams they are."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from tuning.dialogue import Dialogue, Turn
from tuning.report.ngram_baselines import BASELINES, KneserNey, Ngram, WordModel, baseline_scores
from tuning.results.response_scores import bits_per_byte

TEXTS = ["a b c", "a b d", "b b", "a  b\nc ☺", "", "x"]
WORDS = [text.encode() for text in ("", *"abcdx☺")]
SEPARATORS = (b"\t", b"\n", b"\v", b"\f", b"\r", b" ", b"")
WORD_BYTES = [*(byte for byte in range(256) if bytes([byte]) not in SEPARATORS), -1]
HISTORIES: dict[int, list[Ngram]] = {
    1: [()],
    3: [(None, None), (None, b"a"), (b"a", b"b"), (b"q", b"b"), (b"", b"q")],
}
CASES = [(order, history) for order, histories in HISTORIES.items() for history in histories]


def test_probabilities_of_all_strings_sum_to_one() -> None:
    """Over two letters: every string that has ended in time, and every one that is still open."""
    end, longest = 0, 6
    strings = [(1, 2, 1, end), (1, 1, end), (2, 1, 1, 2, end), (end,)]

    def trigrams(string: tuple[int, ...]) -> list[Ngram]:
        padded = (None, None, *string)
        return [padded[start : start + 3] for start in range(len(string))]

    model = KneserNey(
        (trigram for string in strings for trigram in trigrams(string)), lambda _: 1 / 3
    )
    total = 0.0
    for length in range(longest + 1):
        for letters in itertools.product((1, 2), repeat=length):
            string = letters if length == longest else (*letters, end)
            total += math.prod(map(model.probability, trigrams(string)))
    assert total == pytest.approx(1, rel=1e-12)


def test_the_formula_on_paper() -> None:
    """Bigrams ab, ab, ac, bb: b and c follow a; b follows two symbols and c one."""
    model = KneserNey([("a", "b"), ("a", "b"), ("a", "c"), ("b", "b")], lambda _: 1 / 4)
    # Bigrams: two came once and one twice, D = 3/6. Unigrams: one and one, D = 2/5.
    b_alone = (2 - 2 / 5 + 2 / 5 * 2 / 4) / 3
    d_alone = (0 + 2 / 5 * 2 / 4) / 3
    assert model.probability(("a", "b")) == pytest.approx((2 - 1 / 2 + 1 / 2 * 2 * b_alone) / 3)
    assert model.probability(("a", "d")) == pytest.approx((0 + 1 / 2 * 2 * d_alone) / 3)
    assert model.probability(("new", "b")) == pytest.approx(b_alone)


@pytest.mark.parametrize(("order", "history"), CASES)
def test_words_after_any_history_sum_to_one(order: int, history: Ngram) -> None:
    """Known words one by one; all others have one factor in common on top of their spelling."""
    model = WordModel(TEXTS, order=order)
    factors = [
        model.words.probability((*history, word)) / model.spelled(word)
        for word in (b"q", b"abc", "жж".encode(), b"\0\xff")
    ]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-9)
    known = sum(model.words.probability((*history, word)) for word in WORDS)
    unknown = factors[0] * (1 - sum(map(model.spelled, WORDS)))
    assert unknown > 0.01
    assert known + unknown == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("order", "history"), CASES)
def test_separators_and_spellings_sum_to_one(order: int, history: Ngram) -> None:
    model = WordModel(TEXTS, order=order)
    separators = sum(model.separators.probability((*history, part)) for part in SEPARATORS)
    assert separators == pytest.approx(1, rel=1e-12)
    for letters in ((None, None), (None, ord("a")), (ord("q"), ord("a"))):
        spelled = sum(model.spelling.probability((*letters, byte)) for byte in WORD_BYTES)
        assert spelled == pytest.approx(1, rel=1e-12)


def test_a_text_is_its_words_and_the_separators_between_them() -> None:
    model = WordModel(TEXTS, order=3)
    word, separator = model.words.probability, model.separators.probability
    content = math.prod(
        (
            word((None, None, b"a")),
            separator((None, b"a", b" ")),
            word((None, b"a", b"")),
            separator((b"a", b"", b"\n")),
            word((b"a", b"", "☺".encode())),
        )
    )
    end = separator((b"", "☺".encode(), b""))
    assert model.text_nll("a \n☺") == pytest.approx((-math.log(content), -math.log(end)))


def chain(num_turns: int, seed: int) -> list[Dialogue]:
    """Turns of 20 words out of 8; after each word come two others, with equal chances."""
    source = random.Random(seed)
    turns: list[Turn] = []
    for number in range(num_turns):
        words = [source.randrange(8)]
        while len(words) < 20:
            words.append((2 * words[-1] + source.randrange(2)) % 8)
        turns.append(Turn("ab"[number % 2], " ".join(f"word{word}" for word in words)))
    return [Dialogue(f"d{seed}", tuple(turns))]


def test_bits_approach_the_entropy_of_the_source() -> None:
    """3 bits a word without context, 1 with; a separator says that one in 20 words ends a turn."""
    scores = baseline_scores(chain(400, seed=1), chain(51, seed=2))
    separators = 19 * math.log2(20 / 19)
    per_turn = {name: s.content_nll.mean() / math.log(2) for name, s in scores.items()}
    assert per_turn["unigram"] == pytest.approx(20 * 3 + separators, rel=0.02)
    assert per_turn["trigram"] == pytest.approx(3 + 19 * 1 + separators, rel=0.04)
    ends = {name: s.end_nll.mean() for name, s in scores.items()}
    assert ends["unigram"] == pytest.approx(math.log(20), rel=0.02)


@pytest.mark.parametrize("name", BASELINES)
def test_more_of_the_same_text_makes_it_likelier(name: str) -> None:
    held_out = chain(21, seed=3)
    bits = [
        bits_per_byte(scores.content_nll, scores.num_bytes)
        for scores in (
            baseline_scores(training, held_out)[name]
            for training in (chain(2, 4), chain(20, 4), chain(200, 4), held_out)
        )
    ]
    assert bits[0] > bits[1] > bits[2]
    if name == "trigram":
        assert bits[2] > bits[3]  # it has seen these very words


def test_texts_unlike_the_training_are_finite() -> None:
    odd = [Dialogue("1", (Turn("a", "?"), Turn("b", "日本語\t\x1c"), Turn("a", "")))]
    for training in (chain(4, seed=1), [Dialogue("0", (Turn("a", ""),))]):
        for scores in baseline_scores(training, odd).values():
            assert np.isfinite(scores.content_nll).all()
            assert scores.content_nll[0] > scores.content_nll[1] > 0
            assert scores.num_tokens.tolist() == [3, 1]
            assert scores.num_bytes.tolist() == [11, 0]
