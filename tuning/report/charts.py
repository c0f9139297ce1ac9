"""Curves as SVG inside a page: no script, no file beside it, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
NUM_TICKS = 5

Point = tuple[float, float]
Band = tuple[float, float, float]
"""A place of the axis, and an interval's low and high end there."""


@dataclass(frozen=True)
class Chart:
    """Curves over one horizontal axis; points that are not finite are left out."""

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[Point]]
    bands: Mapping[str, Sequence[Band]] = field(default_factory=dict)
    """Intervals of some of the curves, by their names."""


def as_svg(chart: Chart) -> str:
    """The picture; each curve has a class and a pattern of its own, by its place."""
    curves = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in chart.curves.items()
    }
    points = [point for curve in curves.values() for point in curve]
    points += [(x, y) for band in chart.bands.values() for x, *ends in band for y in ends]
    if not points:
        return f'<p class="note">{escape(chart.title)}: nothing was measured.</p>\n'
    x_ticks = round_ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> Point:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = []
    for tick in y_ticks:
        x, y = place(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, y = place(tick, y_ticks[0])
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{tick:g}</text>')
    for number, name in enumerate(curves, start=1):
        if band := chart.bands.get(name):
            around = [place(x, low) for x, low, _ in band]
            around += [place(x, high) for x, _, high in reversed(band)]
            corners = " ".join(f"{x},{y}" for x, y in around)
            parts.append(f'<polygon class="dot{number} band" points="{corners}"/>')
    for number, curve in enumerate(curves.values(), start=1):
        places = [place(*point) for point in curve]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline class="curve{number}" points="{line}"/>')
        if len(places) <= 20:
            parts += (_marker(number, x, y) for x, y in places)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    title = escape(f"{chart.title}: {chart.y_label} by {chart.x_label}")
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
        f'<polyline class="curve{number}" points="1,4 25,4"/>{_marker(number, 13, 4)}</svg> '
        f"{escape(name)}</span>"
        for number, name in enumerate(curves, start=1)
    )
    return (
        f"<figure>\n<figcaption><b>{escape(chart.title)}</b>, {escape(chart.y_label)}<br>{keys}"
        f'</figcaption>\n<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">\n'
        + "\n".join(parts)
        + "\n</svg>\n</figure>\n"
    )


def _marker(number: int, x: float, y: float) -> str:
    """A point of a curve: disc, square or diamond, for a lone point has no pattern."""
    if number % 3 == 1:
        return f'<circle class="dot{number}" cx="{x}" cy="{y}" r="3"/>'
    turned = f' transform="rotate(45 {x} {y})"' if number % 3 == 0 else ""
    corner = f'x="{x - 2.7:.1f}" y="{y - 2.7:.1f}"'
    return f'<rect class="dot{number}" {corner} width="5.4" height="5.4"{turned}/>'


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers with even steps, the first at or below ``low``, the last at or above ``high``.

    A range without width, but for rounding, gets some.
    """
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    rough = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]
