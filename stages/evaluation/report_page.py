"""``metrics/report.html``: an evaluation to look at, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from stages.corpus.dialogue import Turn
from stages.evaluation.charts import Chart, as_svg
from stages.evaluation.headlines import HEADLINES, Headline, meaning
from stages.evaluation.quality import Measures

NATS_OF_FULL_SHADE = 8.0
FULL_SHADE = 0.55

TITLES = {"base": "Base model", "tuned": "Fine-tuned", "people": "People"}

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --muted: #5c6570;
  --line: #d5dae0; --card: #f7f8fa; --better: #1f7a3a; --worse: #b3341f;
  --one: #1d6fb8; --two: #b3501f; --three: #4d7a2a; --shade: 214 120 30; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e9ec; --muted: #9ba5b0;
  --line: #363d45; --card: #1c2126; --better: #5ec27d; --worse: #f08a78;
  --one: #6db3ec; --two: #f0a070; --three: #a3cf7c; --shade: 230 140 40; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .6rem; }
h4 { font-size: .8rem; margin: .4rem 0 .2rem; color: var(--muted); }
p { margin: 0 0 .5rem; max-width: 46rem; }
.note { color: var(--muted); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .8rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; }
thead th { color: var(--muted); font-size: .85rem; font-weight: 400; vertical-align: bottom; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
td small { color: var(--muted); display: block; white-space: nowrap; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: .7rem; }
figcaption { font-size: .9rem; margin: 0 0 .3rem; }
figure > svg { width: 100%; height: auto; }
svg text { fill: var(--muted); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; }
.curve1 { stroke: var(--one); } .dot1 { fill: var(--one); }
.curve2 { stroke: var(--two); stroke-dasharray: 7 3; } .dot2 { fill: var(--two); }
.curve3 { stroke: var(--three); stroke-dasharray: 2 3; } .dot3 { fill: var(--three); }
.key { margin-right: 1rem; color: var(--muted); white-space: nowrap; }
article { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1.2rem;
  padding: .8rem .9rem; }
.sides { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin-top: .6rem; }
.sides > div { background: var(--card); border-radius: 6px; padding: 0 .7rem .5rem; }
.turn { margin: 0 0 .25rem; white-space: pre-wrap; }
.said { margin: 0; white-space: pre-wrap; }
.said span, .scale span { border-radius: 2px; background: rgb(var(--shade) / var(--a)); }
.scale span { padding: 0 .5rem; color: var(--text); }
@media (max-width: 44rem) { .sides { grid-template-columns: 1fr; }
  th, td { padding: .3rem .25rem; } table { font-size: .85rem; } svg text { font-size: 17px; }
  td small { white-space: normal; } }
"""


@dataclass(frozen=True)
class ScoredText:
    """A response piece by piece, and how surprising each piece was."""

    pieces: tuple[str, ...]
    """``[P]`` Joined they are the text."""
    nats: tuple[float, ...]
    """``[P]`` −ln p under a model."""


@dataclass(frozen=True)
class SideBySide:
    """A context, and what base model, fine-tuned model and a person said next."""

    dialogue_id: str
    context: tuple[Turn, ...]
    speaker: str
    """Who answers."""
    responses: Mapping[str, ScoredText]
    """By ``base``, ``tuned``, ``people``."""


def report_page(
    metrics: Mapping[str, Any],
    writing: Mapping[str, Mapping[str, Measures]],
    charts: Sequence[Chart],
    samples: Sequence[SideBySide],
) -> str:
    """The page.

    Args:
        metrics: The content of ``metrics/eval.json``.
        writing: Who wrote -> how -> the quality of it.
        charts: Pictures, in order.
        samples: Responses to read.
    """
    about = metrics["set"]
    baselines = "; ".join(
        f"{name} {scores['bits_per_byte']:.3f}"
        for name, scores in metrics.get("baselines", {}).items()
    )
    shades = "".join(
        f'<span style="--a: {shade(nats):.2f}">{nats:g}</span> ' for nats in (0, 1, 2, 4, 8)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>What fine-tuning changed</h1>\n"
        f"<p>{_counted(about['num_responses'], 'response')} ({about['num_bytes']:,} bytes) of "
        f"{_counted(about['num_dialogues'], 'validation dialogue')}. Each interval (95 %) comes "
        "from resampling whole dialogues.</p>\n"
        f'<p class="note">Text {escape(str(about["text_sha256"])[:12])}, metric version '
        f"{about['metric_version']}. Bits per byte of n-grams: {escape(baselines) or '–'}.</p>\n"
        f"{_headlines(metrics)}"
        f'<h2>Curves</h2>\n<div class="charts">\n{"".join(map(as_svg, charts))}</div>\n'
        f"<h2>What was written</h2>\n{_writing(writing)}"
        "<h2>Read it</h2>\n"
        '<p class="note scale">Shaded by surprise, in nats per token of the model that wrote it; '
        f"people's as the fine-tuned model reads it: {shades}</p>\n"
        f"{''.join(map(_sample, samples)) or '<p>There is nothing to show.</p>'}\n"
        "</body>\n</html>\n"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shade(nats: float) -> float:
    """Opacity of a piece's background."""
    return FULL_SHADE * min(max(nats, 0.0) / NATS_OF_FULL_SHADE, 1.0)


def _headlines(metrics: Mapping[str, Any]) -> str:
    sections = [metrics["base"], metrics["tuned"], metrics["change"]]
    one_template = metrics["base"].get("template") == metrics["tuned"].get("template")
    rows = []
    for headline in HEADLINES:
        if not all(f"{headline.name}_low" in section for section in sections):
            continue
        cells = "".join(
            _cell(headline, section, signed=section is sections[-1]) for section in sections
        )
        text = meaning(headline, sections[-1], metrics["set"]["num_dialogues"], one_template)
        kind = f' class="{text}"' if text in ("better", "worse") else ""
        rows.append(
            f'<tr><th scope="row">{escape(headline.title)}</th>{cells}'
            f"<td{kind}>{escape(text)}</td></tr>\n"
        )
    return _table(("", "base", "fine-tuned", "change", "verdict"), rows)


def _cell(headline: Headline, section: Mapping[str, float], *, signed: bool) -> str:
    name = headline.name
    form = f"{'+' if signed else ''},.{headline.decimals}f"
    value, low, high = (section[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"<td>{value:{form}}<small>{low:{form}} … {high:{form}}</small></td>"


def _writing(writing: Mapping[str, Mapping[str, Measures]]) -> str:
    columns = {
        f"{TITLES.get(who, who)}, {way}": measures
        for who, ways in writing.items()
        for way, measures in ways.items()
    }
    names = dict.fromkeys(name for measures in columns.values() for name in measures.values)
    rows = []
    for name in names:
        cells = ""
        for measures in columns.values():
            if name not in measures.values:
                cells += "<td>–</td>"
                continue
            cells += f"<td>{measures.values[name]:.3f}"
            if name in measures.intervals:
                low, high = measures.intervals[name]
                cells += f"<small>{low:.3f} … {high:.3f}</small>"
            cells += "</td>"
        rows.append(f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>{cells}</tr>\n')
    return (
        "<p>None says alone that a response is good: each is to be near the people's.</p>\n"
        + _table(("", *columns), rows)
    )


def _table(header: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    return (
        f'<div class="wide"><table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{"".join(rows)}'
        "</tbody>\n</table></div>\n"
    )


def _sample(sample: SideBySide) -> str:
    speakers = list(dict.fromkeys([*(turn.speaker for turn in sample.context), sample.speaker]))
    turns = "".join(
        f'<p class="turn" dir="auto"><b>{speakers.index(turn.speaker) + 1}</b> '
        f"{_seen(turn.utterance)}</p>\n"
        for turn in sample.context
    )
    sides = "".join(
        f'<div><h4>{TITLES[name]}</h4><p class="said" dir="auto">{_shaded(text)}</p></div>\n'
        for name, text in sample.responses.items()
    )
    return (
        f"<article>\n<h3>{escape(sample.dialogue_id)}</h3>\n{turns}"
        f'<p class="turn"><b>{speakers.index(sample.speaker) + 1}</b> …</p>\n'
        f'<div class="sides">\n{sides}</div>\n</article>\n'
    )


def _seen(text: str) -> str:
    """Escaped, and what cannot be seen or would turn the text around spelled out.

    White space may stand in lines; U+200D joins the parts of an emoji.
    """
    shown = (c if c.isprintable() or c in "\n\u200d" else ascii(c)[1:-1] for c in text)
    return escape("".join(shown))


def _shaded(text: ScoredText) -> str:
    pieces = "".join(
        f'<span style="--a: {shade(nats):.2f}" title="{nats:.2f} nats">{_seen(piece)}</span>'
        for piece, nats in zip(text.pieces, text.nats, strict=True)
    )
    return pieces or "<i>(says nothing)</i>"
