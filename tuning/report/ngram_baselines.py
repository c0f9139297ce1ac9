r"""Unigram and trigram baselines: a model that beats them has learned more than word counts.

They read the same text as the models, whatever the tokenizer, and are distributions over all of it.
A text is cut at every ASCII white-space byte, which makes any bytes one sequence of words (some may
be empty) and separators, and any such sequence one text::

    "Oh no,\nit rains"   ->   Oh ␣ no, \n it ␣ rains END

Given the words before it in its turn, a word has Kneser and Ney's probability; one that was never
seen is spelled byte by byte. A separator is predicted in the same way from the words up to it. As
the probabilities of words, of separators and of bytes each sum to 1 after any history, so do those
of all texts with their ends.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache

from tuning.dialogue import Dialogue
from tuning.results.response_scores import ResponseScores, make_scores, responses

BASELINES = {"unigram": 1, "trigram": 3}
SPELLING_ORDER = 3

_SEPARATOR = re.compile(rb"([\t\n\v\f\r ])")
_NUM_SEPARATORS = 6
_START = None  # stands before a turn's first word and before a word's first byte
_END = b""  # the separator after a turn's last word
_WORD_END = -1  # the byte after a word's last

Ngram = tuple[Hashable, ...]
"""A symbol with the symbols before it, oldest first."""


class KneserNey:
    """Interpolated Kneser–Ney: the probability of a symbol given the n − 1 before it.

    With counts c of n-grams, N the number of different symbols seen after a history h, and h' the
    history without its oldest symbol::

        p(x | h) = [max(c(hx) − D, 0) + D · N(h) · p(x | h')] / Σ c(h·)

    Below the highest order c counts the different symbols seen before an n-gram, not its
    occurrences. D = (n1 + 1) / (n1 + 2 n2 + 2), from the numbers of n-grams that came once and
    twice: Ney's estimate, drawn to a half where there are few, so that it is never 0. Below order 1
    is ``base``, which must give every symbol a probability, summing to 1. Chen and Goodman 1998,
    section 2.7.
    """

    def __init__(self, ngrams: Iterable[Ngram], base: Callable[[Hashable], float]) -> None:
        """Count n-grams, all of one length n."""
        self._base = base
        self._orders: list[_Order] = []  # from the unigrams up
        counts = Counter(ngrams)
        while any(counts):  # until the n-grams are empty
            self._orders.insert(0, _Order(counts))
            counts = Counter(ngram[1:] for ngram in counts)

    def probability(self, ngram: Ngram) -> float:
        """Return the probability of the last symbol, given those before it."""
        probability = self._base(ngram[-1])
        for order in self._orders:
            seen = ngram[-order.length :]
            total = order.totals.get(seen[:-1])
            if total is None:
                break
            direct = max(order.counts.get(seen, 0) - order.discount, 0)
            escape = order.discount * order.num_followers[seen[:-1]]
            probability = (direct + escape * probability) / total
        return probability


class _Order:
    """The counts and the discount that the formula of one order needs."""

    def __init__(self, counts: Counter[Ngram]) -> None:
        self.counts = counts
        self.length = len(next(iter(counts)))
        self.totals: Counter[Ngram] = Counter()
        self.num_followers: Counter[Ngram] = Counter()
        for ngram, count in counts.items():
            self.totals[ngram[:-1]] += count
            self.num_followers[ngram[:-1]] += 1
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        self.discount = (once + 1) / (once + 2 * twice + 2)


class WordModel:
    """A distribution over texts, learned from texts."""

    def __init__(self, texts: Iterable[str], *, order: int) -> None:
        """Learn from ``texts``; a word depends on the ``order - 1`` before it in its text."""
        self._order = order
        word_ngrams: list[Ngram] = []
        separator_ngrams: list[Ngram] = []
        for text in texts:
            words, separators = self._split(text)
            word_ngrams += words
            separator_ngrams += separators
        vocabulary = dict.fromkeys(ngram[-1] for ngram in word_ngrams)
        self.spelling = KneserNey(
            (ngram for word in vocabulary for ngram in _letters(word)),
            lambda _: 1 / (256 - _NUM_SEPARATORS + 1),
        )
        self.words = KneserNey(word_ngrams, lru_cache(None)(self.spelled))
        self.separators = KneserNey(separator_ngrams, lambda _: 1 / (_NUM_SEPARATORS + 1))

    def text_nll(self, text: str) -> tuple[float, float]:
        """Nats of the text, and of its end."""
        words, separators = self._split(text)
        nats = [-math.log(self.separators.probability(ngram)) for ngram in separators]
        content = sum(-math.log(self.words.probability(ngram)) for ngram in words)
        return content + sum(nats[:-1]), nats[-1]

    def _split(self, text: str) -> tuple[list[Ngram], list[Ngram]]:
        """N-grams that end in each word, and n-grams that end in each separator."""
        parts = [*_SEPARATOR.split(text.encode()), _END]
        history: Ngram = (_START,) * (self._order - 1)
        words: list[Ngram] = []
        separators: list[Ngram] = []
        for word, separator in zip(parts[::2], parts[1::2], strict=True):
            words.append((*history, word))
            history = words[-1][1:]
            separators.append((*history, separator))
        return words, separators

    def spelled(self, word: Hashable) -> float:
        """Probability of the word, a byte at a time."""
        return math.prod(map(self.spelling.probability, _letters(word)))


def baseline_scores(
    training: Iterable[Dialogue], dialogues: Sequence[Dialogue]
) -> dict[str, ResponseScores]:
    """Each of ``BASELINES``, learned from all turns of ``training``, on the set's responses.

    Their ``num_tokens`` are words and the separators between them.
    """
    texts = [turn.text for dialogue in training for turn in dialogue.turns]
    scores: dict[str, ResponseScores] = {}
    for name, order in BASELINES.items():
        model = WordModel(texts, order=order)
        answers = [dialogues[d].turns[t].text for d, t in responses(dialogues)]
        nll = [model.text_nll(answer) for answer in answers]
        scores[name] = make_scores(
            dialogues,
            content_nll=[content for content, _ in nll],
            end_nll=[end for _, end in nll],
            num_tokens=[2 * len(_SEPARATOR.findall(answer.encode())) + 1 for answer in answers],
        )
    return scores


def _letters(word: Hashable) -> list[Ngram]:
    assert isinstance(word, bytes)
    padded = [*(_START,) * (SPELLING_ORDER - 1), *word, _WORD_END]
    return [
        tuple(padded[stop - SPELLING_ORDER : stop])
        for stop in range(SPELLING_ORDER, len(padded) + 1)
    ]
