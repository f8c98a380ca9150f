"""Line and area charts as inline SVG, with their legends. No script: what there is to see is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.observe.curves import Points
from smolcluster.observe.page.markup import Markup, join, tag
from smolcluster.observe.page.style import LINES

WIDTH, HEIGHT = 560.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 10.0, 8.0, 30.0
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """A named series. `dots`: its points are drawn too, where there are few."""

    name: str
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class _Scale:
    """From values to places on one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, value = self._on(self.low), self._on(self.high), self._on(value)
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def _on(self, value: float) -> float:
        return math.log10(max(value, 1e-30)) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Round numbers in between."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, (last - first) // _TICKS)
            return [10.0**power for power in range(first, last + 1, every)]
        width = round_up((self.high - self.low) / _TICKS) if self.high > self.low else 1.0
        first = math.ceil(self.low / width)
        return [number * width for number in range(first, math.floor(self.high / width + 1e-9) + 1)]


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def told(value: float) -> str:
    """A tick's number, short: 1.2M, 20k, 0.05."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def line_chart(
    title: str, lines: Sequence[Line], across: str = "step", from_zero: bool = False, log: bool = False
) -> Markup:
    """Lines over the same axis. Nothing where no line has a point."""
    lines = [Line(line.name, _drawable(line.points, log), line.dots) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    x, y = _scales([line.points for line in lines], from_zero, log)
    drawn = [_line(line, number % LINES, x, y) for number, line in enumerate(lines)]
    return _figure(title, [line.name for line in lines], join(_axes(x, y, across), *drawn))


def area_chart(title: str, lines: Sequence[Line], across: str = "step") -> Markup:
    """Areas on top of each other, of lines with the same places on the axis."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    places = [at for at, _ in lines[0].points]
    floors = [[0.0] * len(places)]
    for line in lines:
        floors.append([under + value for under, (_, value) in zip(floors[-1], line.points, strict=True)])
    tops = [list(zip(places, floor, strict=True)) for floor in floors]
    x, y = _scales(tops, from_zero=True, log=False)
    drawn = []
    for number, (under, over) in enumerate(itertools.pairwise(tops)):
        outline = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in [*over, *reversed(under)])
        drawn.append(tag("polygon", points=outline, class_=f"area{number % LINES}"))
    return _figure(title, [line.name for line in lines], join(_axes(x, y, across), *drawn))


def _drawable(points: Points, log: bool) -> Points:
    return [(at, value) for at, value in points if math.isfinite(value) and (value > 0 or not log)]


def _scales(series: Sequence[Points], from_zero: bool, log: bool) -> tuple[_Scale, _Scale]:
    places = [at for points in series for at, _ in points]
    values = [value for points in series for _, value in points]
    low, high = 0.0 if from_zero else min(values), max(values)
    if high == low:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return (
        _Scale(min(places), max(places), _LEFT, WIDTH - _RIGHT),
        _Scale(low, high, HEIGHT - _BOTTOM, _TOP, log),
    )


def _line(line: Line, number: int, x: _Scale, y: _Scale) -> Markup:
    path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
    drawn = [tag("polyline", points=path, class_=f"line{number}", stroke_width=1.6, stroke_linejoin="round")]
    if (line.dots and len(line.points) <= 60) or len(line.points) == 1:
        dot = f"area{number}"
        drawn += [tag("circle", cx=f"{x(at):.1f}", cy=f"{y(v):.1f}", r=2.6, class_=dot) for at, v in line.points]
    return join(*drawn)


def _axes(x: _Scale, y: _Scale, across: str) -> Markup:
    drawn = []
    for tick in y.ticks:
        at = f"{y(tick):.1f}"
        drawn.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        drawn.append(tag("text", told(tick), x=_LEFT - 6, y=float(at) + 4, text_anchor="end"))
    bottom = HEIGHT - _BOTTOM
    drawn += [tag("text", told(tick), x=f"{x(tick):.1f}", y=bottom + 14, text_anchor="middle") for tick in x.ticks]
    drawn.append(tag("text", across, x=(WIDTH + _LEFT) / 2, y=HEIGHT - 3, text_anchor="middle"))
    return join(*drawn)


def _figure(title: str, names: Sequence[str], drawing: Markup) -> Markup:
    svg = tag("svg", drawing, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=title)
    keys = [tag("li", tag("i", class_=f"key{number % LINES}"), name) for number, name in enumerate(names)]
    legend = tag("ul", *keys, class_="legend")
    return tag("figure", tag("h3", title), svg, legend)
