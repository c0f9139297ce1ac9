"""``metrics/report.html``: an evaluation to look at, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tuning.dialogue import Turn
from tuning.report.charts import Chart, as_svg
from tuning.report.headlines import headline_rows
from tuning.report.page import as_page, counted
from tuning.report.quality import Measures
from tuning.results.measured import ScoredText

NATS_OF_FULL_SHADE = 8.0
FULL_SHADE = 0.55

TITLES = {"base": "Base model", "tuned": "Fine-tuned", "people": "People"}

_STYLE = """
:root { --one: #1d6fb8; --two: #b3501f; --three: #4d7a2a; --shade: 214 120 30; }
@media (prefers-color-scheme: dark) { :root {
  --one: #6db3ec; --two: #f0a070; --three: #a3cf7c; --shade: 230 140 40; } }
.wide { overflow-x: auto; }
td small { color: var(--muted); display: block; white-space: nowrap; }
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
.band { opacity: .16; }
.key { margin-right: 1rem; color: var(--muted); white-space: nowrap; }
.sides { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin-top: .6rem; }
.turn { margin: 0 0 .25rem; white-space: pre-wrap; }
.said { margin: 0; white-space: pre-wrap; }
.said span, .scale span { border-radius: 2px; background: rgb(var(--shade) / var(--a)); }
.scale span { padding: 0 .5rem; color: var(--text); }
@media (max-width: 44rem) { .sides { grid-template-columns: 1fr; }
  th, td { padding: .3rem .25rem; } table { font-size: .85rem; } svg text { font-size: 17px; }
  td small { white-space: normal; } }
"""


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
    return as_page(
        "Evaluation",
        _STYLE,
        "<h1>What fine-tuning changed</h1>\n"
        f"<p>{counted(about['num_responses'], 'response')} ({about['num_bytes']:,} bytes) of "
        f"{counted(about['num_dialogues'], 'validation dialogue')}. Each interval (95 %) comes "
        "from resampling whole dialogues.</p>\n"
        f'<p class="note">Text {escape(str(about["text_sha256"])[:12])}, metric version '
        f"{about['metric_version']}. Bits per byte of n-grams: {escape(baselines) or '–'}.</p>\n"
        f"{_headlines(metrics)}"
        "<h2>Curves</h2>\n"
        '<p class="note">Shaded: 95 % intervals. Where few dialogues reach, they say little.</p>\n'
        f'<div class="charts">\n{"".join(map(as_svg, charts))}</div>\n'
        f"<h2>What was written</h2>\n{_writing(writing)}"
        "<h2>Read it</h2>\n"
        '<p class="note scale">Shaded by surprise, in nats per token of the model that wrote it; '
        f"people's as the fine-tuned model reads it: {shades}</p>\n"
        f"{''.join(map(_sample, samples)) or '<p>There is nothing to show.</p>'}\n",
    )


def shade(nats: float) -> float:
    """Opacity of a piece's background."""
    return FULL_SHADE * min(max(nats, 0.0) / NATS_OF_FULL_SHADE, 1.0)


def _headlines(metrics: Mapping[str, Any]) -> str:
    rows = []
    for row in headline_rows(metrics):
        cells = "".join(
            f"<td>{value}<small>{low} … {high}</small></td>" for value, low, high in row.cells
        )
        kind = f' class="{row.meaning}"' if row.meaning in ("better", "worse") else ""
        rows.append(
            f'<tr><th scope="row">{escape(row.title)}</th>{cells}'
            f"<td{kind}>{escape(row.meaning)}</td></tr>\n"
        )
    return _table(("", "base", "fine-tuned", "change", "verdict"), rows)


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
