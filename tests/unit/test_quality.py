"""Measures of writing, on texts whose values are known."""

from __future__ import annotations

import pytest

from tuning.evaluation_set.places import Response
from tuning.report.quality import (
    BUDGET_WORDS,
    COPIED_WORDS,
    copied_runs,
    distinct_shares,
    f1,
    holds_personal_data,
    loop_rate,
    measure_quality,
    rouge_l,
    signatures,
    words_of,
)


def said(text: str, reference: str = "no", *, dialogue: int = 0, before: str = "") -> Response:
    return Response(dialogue, text, (before,), reference)


def values(*responses: Response, copied: set[tuple[str, ...]] | None = None) -> dict[str, float]:
    return measure_quality(responses, copied or set(), num_resamples=100, seed=1).values


def test_repeated_runs() -> None:
    assert values(said("a b c d " * 10))["seq_rep_4"] == 33 / 37
    assert values(said("a b c d e f g"))["seq_rep_4"] == 0
    # a sum over the set, not a mean of means; none crosses from one response into another
    assert values(said("a b c d " * 10), said("a b c d"))["seq_rep_4"] == 33 / 38
    assert "seq_rep_4" not in values(said("a b c"))


def test_runs_copied_from_the_context() -> None:
    before = "I said that it rains today, and more"
    assert values(said("It rains today, and so on", before=before))["copy_4"] == 1 / 3
    assert values(said("nothing of the kind here"))["copy_4"] == 0


def test_copying_the_reference_is_perfect_and_sharing_nothing_is_zero() -> None:
    texts = ["I like the cat that sleeps here", "It rained all day long yesterday"]
    found = values(*(said(text, text, dialogue=i) for i, text in enumerate(texts)))
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert (found["rouge_l"], found["f1"], found["length_ratio"]) == (1, 1, 1)
    other = values(said("zzz qqq", "I like it", dialogue=0))
    assert (other["rouge_l"], other["f1"], other["bleu"]) == (0, 0, 0)


def test_overlap_against_worked_examples() -> None:
    # Lin 2004, section 3: the longest common subsequence is "police the gunman" of 4 and 4 words
    reference = ["police", "killed", "the", "gunman"]
    assert rouge_l(["police", "kill", "the", "gunman"], reference) == 0.75
    assert rouge_l(["the", "gunman", "kill", "police"], reference) == 0.5
    assert f1(["the", "gunman", "kill", "police"], reference) == 0.75
    assert f1(["a", "a"], ["a"]) == pytest.approx(2 / 3)
    assert (rouge_l([], []), f1([], ["a"])) == (1, 0)


def test_distinct_shares_are_those_of_a_thousand_words() -> None:
    words = [str(i % 250) for i in range(BUDGET_WORDS)]
    assert distinct_shares([words]) == {"distinct_1": 0.25, "distinct_2": 250 / 999}
    assert distinct_shares([words, ["other"] * 50]) == distinct_shares([words])
    assert distinct_shares([words[:500], words[500:]])["distinct_2"] == 250 / 998
    assert distinct_shares([words[:-1]]) == {}


def test_rates() -> None:
    one, two = said("Well, yes"), said("well yes!")
    ends = Response(1, "", (), "no", has_ended=False, has_tag=True)
    found = values(one, two, ends, said("and then B: what"))
    assert found["unique_rate"] == 3 / 4
    assert found["empty_rate"] == 1 / 4
    assert found["end_of_turn_rate"] == 3 / 4
    assert found["tag_leak_rate"] == 2 / 4
    assert found["length_ratio"] == 8 / 4


def test_copies_of_training_text_are_found_whatever_their_case() -> None:
    run = [f"w{i}" for i in range(COPIED_WORDS)]
    training = ["other", "before " + ", ".join(run).upper() + " after"]
    whole, shorter = said(" ".join(run)), said(" ".join(run[1:]) + " no")
    copied = copied_runs([whole, shorter], training)
    assert copied == {tuple(run)}
    assert values(whole, shorter, copied=copied)["training_copy_rate"] == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jo.doe+x@mail.example.org!", True),
        ("call (801) 555-0199", True),
        ("call +49 30 1234567", True),
        ("4111 1111 1111 1111", True),
        ("at 10:30 on 2026-11-28, 42 people", False),
        ("3.14159265358979 is pi", False),
        ("meet me @ home", False),
    ],
)
def test_personal_data(text: str, expected: bool) -> None:
    assert holds_personal_data(text) is expected


def test_loops_are_longer_turns_said_again() -> None:
    assert loop_rate([["I like my cat.", "Me too", "i like my cat"], ["Me too", "Me too"]]) == 0.5
    assert loop_rate([["one two three four", "five six seven eight"]]) == 0


def test_words() -> None:
    assert words_of("Don’t stop—it's 5 o'clock, ÉMILE!") == [
        "don’t",
        "stop",
        "it's",
        "5",
        "o'clock",
        "émile",
    ]


def test_intervals_hold_the_value_and_follow_from_whole_dialogues() -> None:
    texts = ["a b c d a b c d", "e f g h i j", "k l m n k l m n o", "p q r s t"] * 3
    responses = [said(text, dialogue=5 + i) for i, text in enumerate(texts)]
    found = measure_quality(responses, set(), num_resamples=500, seed=1)
    low, high = found.intervals["seq_rep_4"]
    assert low < found.values["seq_rep_4"] < high
    twice = measure_quality([*responses, *responses], set(), num_resamples=500, seed=1)
    assert twice.intervals["seq_rep_4"] == pytest.approx((low, high))
    assert "bleu" not in found.intervals


def test_the_counting_is_named() -> None:
    assert "version" in signatures()["bleu"] and "version" in signatures()["chrf"]
