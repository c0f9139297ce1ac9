"""Headlines are ratios of whole sums; their intervals cover the truth as often as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuning.report.headlines import HEADLINES, Headline, verdicts, with_intervals
from tuning.report.parts import of_sources, rows_of_parts
from tuning.results.bootstrap import Estimate, draw_counts, holm, summarise_draws
from tuning.results.dialogue_table import as_rows, from_csv, in_order
from tuning.run.visible import as_name

BY_NAME = {headline.name: headline for headline in HEADLINES}
Columns = dict[str, NDArray[np.float64]]


def table(num_dialogues: int, seed: int = 0) -> Columns:
    """Every column that a headline takes, of two models."""
    generator = np.random.default_rng(seed)
    columns: Columns = {"num_responses": generator.integers(1, 9, num_dialogues).astype(float)}
    columns["num_ends"] = columns["num_responses"] - (generator.random(num_dialogues) < 0.2)
    columns["num_bytes"] = columns["num_responses"] * generator.uniform(20, 60, num_dialogues)
    columns["block_bytes"] = columns["num_bytes"] / 2
    columns["num_words"] = np.ceil(columns["num_bytes"] / 5)
    columns["num_context_items"] = (generator.random(num_dialogues) < 0.7).astype(float)
    columns["num_recall_items"] = np.full(num_dialogues, 8.0)
    for model in ("base", "tuned"):
        nll = columns["num_bytes"] * generator.uniform(0.6, 1.0, num_dialogues)
        columns |= {
            f"{model}_content_nll": nll,
            f"{model}_end_nll": columns["num_responses"] * generator.uniform(1, 2, num_dialogues),
            f"{model}_num_tokens": np.ceil(columns["num_bytes"] / 4),
            f"{model}_alone_nll": nll * 1.2,
            f"{model}_foreign_nll": nll * 0.7,
            f"{model}_own_nll": nll * 0.5,
            f"{model}_context_hits": columns["num_context_items"]
            * (generator.random(num_dialogues) < 0.6),
            f"{model}_recall_hits": generator.integers(0, 9, num_dialogues).astype(float),
        }
    return columns


def resampled(columns: Columns, num_resamples: int, *, seed: int) -> dict[str, dict[str, float]]:
    generator, size = np.random.default_rng(seed), len(columns["num_bytes"])
    counts = draw_counts(generator, size, num_resamples=num_resamples)
    return with_intervals(columns, counts)


def value(headline: Headline, columns: Columns, model: str = "tuned") -> float:
    return float(headline.values(columns, model, np.ones((1, len(columns["num_bytes"]))))[0])


def test_each_headline_is_its_formula() -> None:
    c = {name: column.sum() for name, column in table(30).items()}
    bits = math.log(2) * c["num_bytes"]
    num_targets = c["tuned_num_tokens"] + c["num_ends"]
    expected = {
        "bits_per_byte": c["tuned_content_nll"] / bits,
        "perplexity": math.exp((c["tuned_content_nll"] + c["tuned_end_nll"]) / num_targets),
        "word_perplexity": math.exp(c["tuned_content_nll"] / c["num_words"]),
        "bits_per_byte_with_ends": (c["tuned_content_nll"] + c["tuned_end_nll"]) / bits,
        "end_of_turn_nll": c["tuned_end_nll"] / c["num_ends"],
        "history_gain": (c["tuned_alone_nll"] - c["tuned_content_nll"]) / bits,
        "foreign_history_gain": (c["tuned_foreign_nll"] - c["tuned_own_nll"])
        / (math.log(2) * c["block_bytes"]),
        "context_identification": c["tuned_context_hits"] / c["num_context_items"],
        "recall": c["tuned_recall_hits"] / c["num_recall_items"],
    }
    found = resampled(table(30), 100, seed=0)["tuned"]
    assert found == found | {name: pytest.approx(one) for name, one in expected.items()}
    assert len(found) == 3 * len(expected)
    for name in expected:
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda headline: headline.name)
def test_sums_add(headline: Headline) -> None:
    """Two halves' sums are the whole's, and a dialogue taken twice counts twice."""
    first, second = table(7, seed=1), table(5, seed=2)
    whole = {name: np.concatenate([first[name], second[name]]) for name in first}
    counts = np.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]], dtype=float)
    parts = [
        headline.sums(columns, "base", np.full((1, size), times))
        for columns, size, times in ((first, 7, 1.0), (second, 5, 2.0))
    ]
    for index, total in enumerate(headline.sums(whole, "base", counts)):
        assert total == pytest.approx(parts[0][index] + parts[1][index])


def test_a_headline_without_its_columns_is_left_out() -> None:
    columns = table(12)
    del columns["base_alone_nll"]
    columns["num_context_items"] = np.zeros(12)
    found = resampled(columns, 100, seed=0)
    for section in found.values():
        assert "history_gain" not in section
        assert "context_identification" not in section
        assert section.keys() >= {"bits_per_byte", "foreign_history_gain_low"}


def test_a_resample_without_what_is_counted_is_left_out() -> None:
    """One dialogue of twelve has items: a third of all resamples hold none of it."""
    columns = table(12)
    columns["num_context_items"] = np.eye(12)[0]
    columns["tuned_context_hits"] = columns["base_context_hits"] = np.eye(12)[0]
    found = resampled(columns, 100, seed=0)["tuned"]
    names = ("context_identification", "context_identification_low", "context_identification_high")
    assert [found[name] for name in names] == [1.0, 1.0, 1.0]
    assert BY_NAME["context_identification"].num_dialogues(columns, "tuned") == 1


def test_a_model_against_itself_is_exactly_no_change() -> None:
    columns = table(37)
    for name in list(columns):
        if name.startswith("base_"):
            columns[name.replace("base_", "tuned_")] = columns[name].copy()
    change = resampled(columns, 300, seed=5)["change"]
    for headline in HEADLINES:
        ends = [change.pop(f"{headline.name}{end}") for end in ("", "_low", "_high")]
        assert ends == [0.0, 0.0, 0.0]
        assert change.pop(f"{headline.name}_p") == 1
        assert change.pop(f"{headline.name}_n") > 0
    assert not change


def test_a_change_is_paired() -> None:
    """Dialogues differ much, the models little: each interval is wide, the change's is not."""
    columns = table(40)
    columns["tuned_content_nll"] = columns["base_content_nll"] - 0.01 * columns["num_bytes"]
    found = resampled(columns, 300, seed=5)
    width = {
        section: numbers["bits_per_byte_high"] - numbers["bits_per_byte_low"]
        for section, numbers in found.items()
    }
    assert width["base"] > 0.05
    assert width["change"] == pytest.approx(0, abs=1e-12)
    assert found["change"]["bits_per_byte"] == pytest.approx(-0.01 / math.log(2))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """500 sets of 150 dialogues, whose turns share their dialogue's difficulty."""
    generator = np.random.default_rng(3)
    bits = BY_NAME["bits_per_byte"]
    covered = 0
    for seed in range(500):
        num_bytes = generator.integers(50, 1000, 150).astype(float)
        nats = num_bytes * generator.normal(0.9, 0.15, 150)
        columns = {"num_bytes": num_bytes, "tuned_content_nll": nats}
        counts = draw_counts(np.random.default_rng(seed), 150, num_resamples=400)
        estimate = summarise_draws(value(bits, columns), bits.values(columns, "tuned", counts))
        covered += estimate.low <= 0.9 / math.log(2) <= estimate.high
    assert 0.93 <= covered / 500 <= 0.97


def test_duplicated_turns_leave_the_standard_error_as_it_is() -> None:
    """A dialogue that says all twice is no more evidence than one that says it once."""
    once = table(30)
    twice = {name: 2 * column for name, column in once.items()}
    found = [resampled(columns, 200, seed=1) for columns in (once, twice)]
    for section, numbers in found[0].items():
        assert numbers == pytest.approx(found[1][section], rel=1e-12)


def test_the_same_seed_gives_the_same_intervals() -> None:
    first, again, other = (resampled(table(20), 200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["base"]["perplexity_low"] != other["base"]["perplexity_low"]
    assert first["base"]["perplexity"] == other["base"]["perplexity"]


def test_every_resample_draws_as_many_dialogues_as_there_are() -> None:
    counts = draw_counts(np.random.default_rng(0), 9, num_resamples=500)
    assert counts.shape == (500, 9)
    assert set(counts.sum(axis=1)) == {9.0}
    assert counts.mean(axis=0) == pytest.approx(np.ones(9), abs=0.2)


def a_change(low: float, high: float, p: float | None = None) -> Estimate:
    if p is None:
        p = 0.001 if low > 0 or high < 0 else 0.5
    return Estimate((low + high) / 2, low, high, (high - low) / 4, p)


def one_verdict(
    name: str, change: Estimate, *, num_dialogues: int = 30, num_runs: int = 3, primary: str = ""
) -> str:
    found = verdicts(
        {name: change}, {name: num_dialogues}, primary=primary or name, num_runs=num_runs
    )
    return found[name]


@pytest.mark.parametrize(
    ("low", "high", "more_is_better", "less_is_better"),
    [
        (0.1, 0.2, "better", "worse"),
        (-0.2, -0.1, "worse", "better"),
        (-0.1, 0.2, "no difference shown", "no difference shown"),
        (0.0, 0.0, "no difference shown", "no difference shown"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_0(
    low: float, high: float, more_is_better: str, less_is_better: str
) -> None:
    assert one_verdict("recall", a_change(low, high)) == more_is_better
    assert one_verdict("bits_per_byte", a_change(low, high)) == less_is_better


def test_fewer_runs_than_three_say_that_two_models_differ() -> None:
    change = a_change(-0.2, -0.1)
    found = [one_verdict("bits_per_byte", change, num_runs=number) for number in (1, 2, 3)]
    assert found == ["differ", "differ", "better"]
    assert one_verdict("bits_per_byte", a_change(-1, 1), num_runs=1) == "no difference shown"


def test_fewer_dialogues_than_thirty_get_no_verdict() -> None:
    few = one_verdict("recall", a_change(0.1, 0.2), num_dialogues=29)
    assert few == "too few dialogues (under 30)"


def test_a_history_that_is_needed_less_is_no_verdict() -> None:
    assert one_verdict("history_gain", a_change(-0.2, -0.1)) == "no verdict"


def test_only_the_primary_headline_is_judged_by_its_own_interval_alone() -> None:
    """An interval off 0 is not enough for the others: p-values are adjusted for their number."""
    names = ("perplexity", "end_of_turn_nll", "foreign_history_gain", "recall")
    changes = {
        name: a_change(0.1, 0.2, p)
        for name, p in zip(names, (0.001, 0.016, 0.03, 0.03), strict=True)
    } | {"bits_per_byte": a_change(-0.2, -0.1, 0.04), "word_perplexity": a_change(-9, -5, 0.04)}
    found = verdicts(changes, dict.fromkeys(changes, 30), primary="bits_per_byte", num_runs=3)
    assert found == {
        "bits_per_byte": "better",
        "perplexity": "worse",
        "word_perplexity": "as bits per byte",
        "end_of_turn_nll": "worse",
        "foreign_history_gain": "no difference shown",
        "recall": "no difference shown",
    }


def test_holms_adjustment_is_that_of_its_definition() -> None:
    """The smallest times their number, the next times one less, and never falling."""
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.6})
    assert found == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.6})
    assert holm({}) == {}


def test_under_the_null_one_of_many_headlines_is_seldom_called() -> None:
    """Five independent ones, 400 times: without Holm's method one in four would be called."""
    generator = np.random.default_rng(4)
    names = ("perplexity", "end_of_turn_nll", "foreign_history_gain", "recall", "bits_per_byte")
    called = alone = 0
    for _ in range(400):
        draws = generator.normal(generator.normal(size=(5, 1)), 1.0, (5, 1000))
        changes = {
            name: summarise_draws(float(one.mean()), one)
            for name, one in zip(names, draws, strict=True)
        }
        found = verdicts(changes, dict.fromkeys(names, 40), primary="", num_runs=3)
        called += any(one in ("better", "worse") for one in found.values())
        alone += any(one.low > 0 or one.high < 0 for one in changes.values())
    assert called / 400 <= 0.08 < 0.15 <= alone / 400


def test_the_detectable_change_is_found_four_times_out_of_five() -> None:
    """A true change of that size, measured with that error."""
    draws = np.random.default_rng(0).normal(0.0, 0.5, 200_000)
    detectable = summarise_draws(0.0, draws).detectable
    found = np.abs(draws + detectable) > 1.96 * 0.5
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_a_table_comes_back_from_disk_as_it_was() -> None:
    columns = table(4)
    ids = ["a", 'b,"c"', "line\nend", "☺"]
    header, rows = as_rows(ids, columns)
    lines = [header, *rows]
    text = "\n".join(
        ",".join('"' + str(cell).replace('"', '""') + '"' for cell in line) for line in lines
    )
    found_ids, found = from_csv(text)
    assert found_ids == [*map(as_name, ids)]
    assert found_ids[:2] + found_ids[3:] == ids[:2] + ids[3:]
    assert found.keys() == columns.keys()
    assert all((found[name] == columns[name]).all() for name in columns)
    turned = in_order(found_ids, found, found_ids[::-1])
    assert all((turned[name] == columns[name][::-1]).all() for name in columns)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dialogue_id,num_responses,num_bytes\n",
        "id,num_responses,num_bytes\nx,1,2\n",
        "dialogue_id,num_responses,num_bytes\nx,1\n",
        "dialogue_id,num_responses,num_bytes\nx,1,2\nx,1,2\n",
        "dialogue_id,num_responses,num_bytes\nx,1,nan\n",
        "dialogue_id,num_responses,num_bytes\nx,1,two\n",
        "dialogue_id,num_responses\nx,1\n",
        'dialogue_id,num_responses,num_bytes\n"x"y,1,2\n',
    ],
)
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"row per dialogue|twice|finite|float|no column|not CSV"):
        from_csv(text)


def test_a_number_is_shown_with_its_decimals_and_a_change_with_its_sign() -> None:
    words = BY_NAME["word_perplexity"]
    assert words.shown(99_999.94) == "99,999.9"
    assert words.shown(107_394_190_230.1) == "1.1e+11"  # else it would burst its column
    assert words.shown_interval(-1.7e308, 0.26) == "[-1.7e+308, +0.3]"
    assert words.shown(1234.56, signed=True) == "+1,234.6"
    assert BY_NAME["bits_per_byte"].shown_interval(-0.25, 0.5) == "[-0.2500, +0.5000]"


def test_a_sources_headlines_are_those_of_its_dialogues_alone() -> None:
    columns = table(40)
    sources = ["talk" if number % 3 else "mine" for number in range(40)]
    counts = draw_counts(np.random.default_rng(0), 40, num_resamples=200)
    found = of_sources(sources, columns, counts)
    for name, one in found.items():
        is_here = np.array([source == name for source in sources])
        alone = {column: values[is_here] for column, values in columns.items()}
        assert one["set"] == {"num_dialogues": is_here.sum()}
        for headline in ("bits_per_byte", "perplexity"):
            assert one["tuned"][headline] == value(BY_NAME[headline], alone)
            change = one["change"]
            assert change[f"{headline}_low"] <= change[headline] <= change[f"{headline}_high"]
        assert len(one["base"]) == 9  # three, with both ends of their intervals
    assert found.keys() == {"talk", "mine"}


def test_one_source_has_no_headlines_of_its_own() -> None:
    counts = draw_counts(np.random.default_rng(0), 9, num_resamples=100)
    assert of_sources([""] * 9, table(9), counts) == {}
    assert rows_of_parts({"base": {}, "tuned": {}}, "sources") == {}


def test_a_sources_rows_say_what_its_changes_mean() -> None:
    columns = table(40) | {"tuned_content_nll": table(40)["base_content_nll"] * 0.5}
    counts = draw_counts(np.random.default_rng(0), 40, num_resamples=200)
    sources = ["few"] * 5 + ["many"] * 35
    metrics: dict[str, Any] = with_intervals(columns, counts) | {
        "sources": of_sources(sources, columns, counts),
        "set": {"num_dialogues": 40},
    }
    metrics["base"]["template"], metrics["tuned"]["template"] = "plain_text", "speaker_tokens"
    rows = rows_of_parts(metrics, "sources")
    two_templates = "not comparable: two templates"
    assert [(row.title, row.num_dialogues, row.meaning) for row in rows["many"]] == [
        ("bits per byte", 35, "differ"),
        ("perplexity", 35, two_templates),
        ("bits per byte with ends", 35, two_templates),
    ]
    assert rows["few"][0].meaning == "too few dialogues (under 30)"
