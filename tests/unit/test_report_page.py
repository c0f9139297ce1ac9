"""The report shows every number, harms nobody, and needs nothing else."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tuning.dialogue import Turn
from tuning.report.charts import Chart, draw, round_ticks
from tuning.report.headlines import HEADLINES
from tuning.report.quality import Measures
from tuning.report.report_page import SideBySide, report_page, shade
from tuning.results.measured import ScoredText
from tuning.results.samples import Sample, samples_as_markdown

EVIL = "<script>alert('x')</script></title></p> & \"quoted\" http://example.org"


def metrics() -> dict[str, Any]:
    found: dict[str, Any] = {"base": {}, "tuned": {}, "change": {}}
    for number, headline in enumerate(HEADLINES, start=1):
        for place, section in enumerate(found.values()):
            section[headline.name] = number + place / 10 + 0.004
            section[f"{headline.name}_low"] = number + place / 10 - 0.25
            section[f"{headline.name}_high"] = number + place / 10 + 0.25
        found["change"] |= {f"{headline.name}_p": 0.002, f"{headline.name}_n": 30 + number}
    found["baselines"] = {"trigram": {"bits_per_byte": 2.0846}}
    found["set"] = {
        "num_dialogues": 31,
        "num_responses": 360,
        "num_bytes": 31315,
        "text_sha256": "c0aacf16bdb5f0",
        "metric_version": 1,
    }
    return found


def sample(text: str = EVIL) -> SideBySide:
    scored = ScoredText((text[:3], text[3:]), (0.5, 9.0))
    return SideBySide(
        text,
        (Turn(text, text),),
        Turn(text, text),
        {"base": scored, "tuned": scored, "people": scored},
    )


def page(*samples: SideBySide, name: str = EVIL) -> str:
    """A page on which ``name`` stands wherever a name can."""
    writing = {
        "base": {
            name: Measures({name: 1.0}, {}),
            "greedy": Measures({"seq_rep_4": 0.125}, {"seq_rep_4": (0.0625, 0.25)}),
        },
        "people": {"said": Measures({"bleu": 100.0}, {})},
    }
    found = metrics()
    found["baselines"][name] = {"bits_per_byte": 1.0}
    charts = [Chart(name, name, name, {name: [(0, 1), (1, 2)]}), Chart(name, "x", "y", {})]
    return report_page(found, {}, writing, charts, samples)


def chart_page(chart: Chart) -> str:
    return report_page(metrics(), {}, {}, [chart], [])


class Reader(HTMLParser):
    """Keeps the tags, what could load or run something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[tuple[str, str | None]] = []
        self.labels: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [a for a in attrs if a[0] in ("src", "href") or a[0].startswith("on")]
        self.labels += [value for name, value in attrs if name == "aria-label"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_shown_and_never_run() -> None:
    read = Reader(page(sample()))
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert read.loads == []
    samples, charts, others = (
        5,
        5,
        3,
    )  # id, turn, three responses; titles, axes, key; baseline, table
    assert read.text.count(EVIL) == samples + charts + others
    assert read.labels == [f"{EVIL}: {EVIL} by {EVIL}"]
    assert "url(" not in read.text and "@import" not in read.text


def test_no_text_changes_the_elements_of_the_page() -> None:
    harmless = Reader(page(sample("some text"), name="name"))
    assert Reader(page(sample())).tags == harmless.tags


def test_every_headline_stands_there_with_its_interval() -> None:
    read = Reader(page()).text
    for number, headline in enumerate(HEADLINES, start=1):
        assert headline.title in read
        for place in (0, 1):
            value = f"{number + place / 10 + 0.004:,.{headline.decimals}f}"
            low = f"{number + place / 10 - 0.25:,.{headline.decimals}f}"
            assert f"{value}{low} … " in read
        assert f"{number + 0.2 - 0.25:+,.{headline.decimals}f} … " in read
        ends = [
            f"{number + place / 10 + 0.004:{sign},.{headline.decimals}f}"
            f"{number + place / 10 - 0.25:{sign},.{headline.decimals}f} … "
            f"{number + place / 10 + 0.25:{sign},.{headline.decimals}f}"
            for place, sign in ((0, ""), (1, ""), (2, "+"))
        ]
        assert "".join(ends) in read
    assert "trigrams 2.085" in read and "360 responses" in read
    assert "0.1250.062 … 0.250" in read and "100.000" in read


def test_every_headline_says_what_its_change_means() -> None:
    found = metrics()
    found["base"]["template"], found["tuned"]["template"] = "plain_text", "speaker_tokens"
    found["change"] |= {"recall_low": -0.1, "recall_high": 0.1, "context_identification_n": 29}
    rows = re.findall(
        r'<tr><th scope="row">([^<]*)</th>.*<td>([^<]*)</td><td>([^<]*)</td></tr>',
        report_page(found, {}, {}, [], []),
    )
    assert len(rows) == len(HEADLINES)
    said = {title: (number, text) for title, number, text in rows}
    assert said["bits per byte"] == ("31", "differ")
    assert said["context identification"] == ("29", "too few dialogues (under 30)")
    assert said["recall of planted facts"][1] == "no difference shown"
    assert said["perplexity"][1] == "not comparable: two templates"


def test_what_was_not_measured_is_left_out() -> None:
    fewer = metrics()
    for section in ("base", "tuned", "change"):
        for key in ("recall", "recall_low", "recall_high"):
            del fewer[section][key]
    del fewer["baselines"]
    read = Reader(report_page(fewer, {}, {}, [], [])).text
    assert "recall" not in read and "bits per byte" in read and "nothing to show" in read


def test_pieces_are_shaded_by_surprise() -> None:
    shades = [shade(nats) for nats in (-0.1, 0, 0.5, 2, 8, 50)]
    assert shades == sorted(shades) and shades[1] == 0 and shades[-1] == shades[-2] < 1
    spans = re.findall(r'--a: ([\d.]+)" title="([\d.]+) nats">', page(sample("some text")))
    assert spans == [(f"{shade(0.5):.2f}", "0.50"), (f"{shade(9):.2f}", "9.00")] * 3


def test_an_empty_response_says_so() -> None:
    empty = ScoredText((), ())
    one = SideBySide("1", (), Turn("a", ""), {"base": empty, "tuned": empty, "people": empty})
    assert Reader(page(one)).text.count("(says nothing)") == 3


def test_roles_have_their_names_and_people_numbers() -> None:
    said = ScoredText(("hi",), (1.0,))
    turns = (
        Turn("system", "s", "system"),
        Turn("ann", "u", "user"),
        Turn("assistant", "a", "assistant"),
        Turn("bob", "v", "user"),
    )
    answer = Turn("assistant", "b", "assistant")
    one = SideBySide("1", turns, answer, {"base": said, "tuned": said, "people": said})
    names = re.findall(r'<p class="turn".*?<b>(.+?)</b>', page(one, name="x"))
    assert names == ["system", "speaker 1", "assistant", "speaker 2", "assistant"]
    written = Turn("assistant", "c")  # by a model that knows speakers
    text = samples_as_markdown([Sample("1", turns, (written,), (answer,))])
    names = re.findall(r"^- (.+): `[suavcb]`$", text, re.MULTILINE)
    assert names == ["system", "speaker 1", "assistant", "speaker 2", "assistant", "assistant"]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (0.013, 0.019),
        (-3, 250),
        (5, 5),
        (0, 0),
        (1.5, 1.5000000000000002),
        (-1e-300, 0),
        (1e-9, 3e-9),
        (1, 1e7),
    ],
)
def test_ticks_are_round_even_and_hold_the_range(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    steps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert all(len(f"{tick:g}") <= 8 for tick in ticks)


def points(chart: Chart) -> list[list[tuple[float, float]]]:
    """Every curve's points as the page has them."""
    _, _, svg = chart_page(chart).partition('<svg viewBox="0 0 520')
    lines = re.findall(r'<polyline class="curve\d" points="([^"]*)"', svg)
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
        for line in lines
    ]


def test_curves_keep_the_order_and_stay_inside() -> None:
    curves = {"a": [(0.0, 1.0), (5.0, 3.0), (20.0, 2.0)], "b": [(math.nan, 1.0), (3.0, math.inf)]}
    first, second = points(Chart("t", "x", "y", curves))
    assert second == []
    xs, ys = zip(*first, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[0] > ys[2] > ys[1]  # upwards is less
    assert all(0 < x < 520 and 0 < y < 260 for x, y in first)
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(0.25, abs=0.01)


def test_a_single_point_and_none_are_fine() -> None:
    [[(x, y)]] = points(Chart("t", "x", "y", {"a": [(3.0, 0.0)]}))
    assert 0 < x < 520 and 0 < y < 260
    empty = Chart("t", "x", "y", {"a": []})
    assert draw(empty).is_empty
    assert "t: nothing was measured" in chart_page(empty)


def test_a_band_goes_there_and_back_around_its_curve() -> None:
    band = [(0.0, 0.5, 1.5), (2.0, 1.5, 2.5)]
    [curve] = draw(Chart("t", "x", "y", {"a": [(0.0, 1.0), (2.0, 2.0)]}, {"a": band})).curves
    corners = [tuple(map(float, corner.split(","))) for corner in curve.band.split(" ")]
    (first, low), (last, high) = curve.markers
    assert [x for x, _ in corners] == [first, last, last, first]
    assert corners[0][1] > low > corners[3][1] and corners[1][1] > high > corners[2][1]


def test_a_long_curve_is_a_line_alone() -> None:
    curves = {"short": [(x, x) for x in range(20)], "long": [(x, x) for x in range(21)]}
    page = chart_page(Chart("t", "x", "y", curves))
    assert page.count('<circle class="dot1"') == 20 + 1  # and one in the key
    assert page.count('<rect class="dot2"') == 1
