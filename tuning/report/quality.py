"""The quality of written responses, in numbers that people's own responses get as well.

None of them says alone that a response is good: each is to be near the people's column. Words are
runs of letters and digits, in lower case; n-grams never cross from one response into another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tuning.evaluation_set.places import Response
from tuning.results.bootstrap import draw_counts, summarise_draws
from tuning.results.dialogue_table import sum_per_dialogue

Ngram = tuple[str, ...]

BUDGET_WORDS = 1000
"""Words on which the share of distinct ones is taken: more words hold a smaller share."""

COPIED_WORDS = 12
"""Words of a run that, if it stands in the training text too, was hardly written anew."""

LOOP_WORDS = 4
"""Words of the shortest turn that counts as a loop: ``Yeah, me too`` may come again."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_TAG = re.compile(r"<\|speaker\d+\|>|(?<!\S)[A-Z]\d*:(?=\s|$)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_NUMBER = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ()-]{0,2}\d){8,18}(?!\w)")


def words_of(text: str) -> list[str]:
    """The words, in lower case."""
    return _WORD.findall(text.casefold())


def ngrams(words: Sequence[str], size: int) -> list[Ngram]:
    """All runs of ``size`` words, in order."""
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


@dataclass(frozen=True)
class Measures:
    """The measures of one column of responses: values, with 95 % intervals where there are any."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def measure_quality(
    responses: Sequence[Response],
    copied: set[Ngram],
    *,
    num_resamples: int,
    seed: int,
) -> Measures:
    """Take every measure of at least one response.

    Args:
        responses: In an order that does not depend on what they say.
        copied: Runs of ``COPIED_WORDS`` words that stand in the training text.
        num_resamples: Resamples of the dialogues.
        seed: Seed of the resamples.
    """
    dialogues = np.unique([response.dialogue for response in responses], return_inverse=True)[1]
    size = int(dialogues.max()) + 1
    counts = draw_counts(np.random.default_rng(seed), size, num_resamples=num_resamples)
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, pairs in _parts(responses, copied).items():
        above, below = (sum_per_dialogue(dialogues, part, size) for part in pairs.T)
        if not below.sum():
            continue
        values[name] = float(above.sum() / below.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.einsum("rd,d->r", counts, above) / np.einsum("rd,d->r", counts, below)
        estimate = summarise_draws(values[name], draws)
        intervals[name] = (estimate.low, estimate.high)
    words = [words_of(response.text) for response in responses]
    values["unique_rate"] = len({tuple(w) for w in words}) / len(words)
    values |= distinct_shares(words)
    texts = [response.text for response in responses]
    references = [[response.reference for response in responses]]
    values["chrf"] = float(CHRF().corpus_score(texts, references).score)
    values["bleu"] = float(BLEU().corpus_score(texts, references).score)
    return Measures(values, intervals)


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures, which say how it counted (Post 2018)."""
    metrics: Mapping[str, CHRF | BLEU] = {"bleu": BLEU(), "chrf": CHRF()}
    found = {}
    for name, metric in metrics.items():
        metric.corpus_score(["a"], [["a"]])  # before it, the number of references is not known
        found[name] = str(metric.get_signature())
    return found


def _parts(responses: Sequence[Response], copied: set[Ngram]) -> dict[str, NDArray[np.float64]]:
    """Per measure ``[N, 2]``: what each response adds to its numerator and its denominator."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for response in responses:
        words, reference = words_of(response.text), words_of(response.reference)
        fours = ngrams(words, 4)
        before = {gram for text in response.context for gram in ngrams(words_of(text), 4)}
        runs = ngrams(words, COPIED_WORDS)
        row: dict[str, tuple[float, float]] = {
            # Welleck et al. 2020: what of the four-word runs was there before
            "seq_rep_4": (len(fours) - len(set(fours)), len(fours)),
            "copy_4": (sum(gram in before for gram in fours), len(fours)),
            "rouge_l": (rouge_l(words, reference), 1),
            "f1": (f1(words, reference), 1),
            "length_ratio": (len(words), len(reference)),
            "empty_rate": (not words, 1),
            "end_of_turn_rate": (response.has_ended, 1),
            "tag_leak_rate": (response.has_tag or bool(_TAG.search(response.text)), 1),
            "training_copy_rate": (any(run in copied for run in runs), 1),
            "personal_data_rate": (holds_personal_data(response.text), 1),
        }
        for name, pair in row.items():
            rows.setdefault(name, []).append(pair)
    return {name: np.array(pairs, dtype=np.float64) for name, pairs in rows.items()}


def distinct_shares(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """``distinct_1`` and ``distinct_2`` of the first 1,000 words (Li et al. 2016).

    Nothing where there are fewer: the share of fewer words is another number.
    """
    kept: list[Sequence[str]] = []
    left = BUDGET_WORDS
    for words in texts:
        kept.append(words[:left])
        left -= len(kept[-1])
    if left > 0:
        return {}
    shares = {}
    for size in (1, 2):
        grams = [gram for words in kept for gram in ngrams(words, size)]
        shares[f"distinct_{size}"] = len(set(grams)) / len(grams)
    return shares


def rouge_l(words: Sequence[str], reference: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004); 1 for two empty texts."""
    longest = [0] * (len(reference) + 1)
    for word in words:
        diagonal = 0
        for column, other in enumerate(reference, start=1):
            above = longest[column]
            longest[column] = diagonal + 1 if word == other else max(above, longest[column - 1])
            diagonal = above
    return _f_measure(longest[-1], len(words), len(reference))


def f1(words: Sequence[str], reference: Sequence[str]) -> float:
    """F-measure of the words, in whatever order (ParlAI's and SQuAD's F1)."""
    shared = (Counter(words) & Counter(reference)).total()
    return _f_measure(shared, len(words), len(reference))


def _f_measure(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted) if found + wanted else 1.0


def copied_runs(responses: Iterable[Response], training_texts: Iterable[str]) -> set[Ngram]:
    """The responses' runs of ``COPIED_WORDS`` words that stand in a training text, read once."""
    written = {
        run for response in responses for run in ngrams(words_of(response.text), COPIED_WORDS)
    }
    return {
        run
        for text in training_texts
        for run in ngrams(words_of(text), COPIED_WORDS)
        if run in written
    }


def holds_personal_data(text: str) -> bool:
    """Tell whether a text holds an e-mail address, or a number as long as a phone's or a card's."""
    return bool(_EMAIL.search(text) or _NUMBER.search(text))


def loop_rate(chats: Sequence[Sequence[str]]) -> float:
    """Share of dialogues, as turns' texts, that hold a turn of 4 or more words said before."""
    return sum(map(_loops, chats)) / len(chats)


def _loops(turns: Sequence[str]) -> bool:
    said = [words for words in map(tuple, map(words_of, turns)) if len(words) >= LOOP_WORDS]
    return len(set(said)) < len(said)
