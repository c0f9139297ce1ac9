"""Curves over one axis, and where on a picture each of their points stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
NUM_TICKS = 5
MOST_MARKERS = 20
"""A curve of more points is a line alone."""

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


@dataclass(frozen=True)
class Tick:
    """A round number on an axis, and where it stands."""

    value: float
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve on the picture; by its number it has a colour and a pattern of its own."""

    number: int
    """1 for the first."""
    name: str
    line: str
    """Its points as SVG has them: ``x,y x,y``."""
    band: str
    """The corners of its intervals, there and back; empty where it has none."""
    markers: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart in units of its SVG; x grows to the right, y downwards."""

    chart: Chart
    x_ticks: Sequence[Tick] = ()
    y_ticks: Sequence[Tick] = ()
    curves: Sequence[Curve] = ()
    width: int = WIDTH
    height: int = HEIGHT
    right: int = WIDTH - RIGHT
    """The place where the horizontal lines end."""
    middle: float = (LEFT + WIDTH - RIGHT) / 2
    """Ticks of the horizontal axis."""

    @property
    def is_empty(self) -> bool:
        """True where nothing was measured."""
        return not self.x_ticks


def draw(chart: Chart) -> Picture:
    """Return the picture of a chart, whose axes hold all of its curves and bands."""
    curves = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in chart.curves.items()
    }
    points = [point for curve in curves.values() for point in curve]
    points += [(x, y) for band in chart.bands.values() for x, *ends in band for y in ends]
    if not points:
        return Picture(chart=chart)
    x_ticks = round_ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> Point:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    drawn = []
    for number, (name, curve) in enumerate(curves.items(), start=1):
        band = chart.bands.get(name, ())
        there = [place(x, low) for x, low, _ in band]
        back = [place(x, high) for x, _, high in reversed(band)]
        line = [place(x, y) for x, y in curve]
        drawn.append(
            Curve(
                number=number,
                name=name,
                line=_as_points(line),
                band=_as_points([*there, *back]),
                markers=line if len(line) <= MOST_MARKERS else (),
            )
        )
    return Picture(
        chart=chart,
        x_ticks=[Tick(tick, *place(tick, y_ticks[0])) for tick in x_ticks],
        y_ticks=[Tick(tick, *place(x_ticks[0], tick)) for tick in y_ticks],
        curves=drawn,
    )


def _as_points(places: Iterable[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


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
