"""Charts as inline SVG, drawn by small pure functions; colours and type come from the page's style sheet.

Lengths are SVG units, a CSS pixel at natural size. Colours are classes (`c0` … `c7`) and never the only sign:
lines end in their label and carry a marker shape. Every chart has a <title>, every mark its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedsim.report import svg
from fedsim.report.numbers import Number

COLOURS = 8
WIDTH, HEIGHT = 520, 296
LEFT, RIGHT, TOP, BOTTOM = 54, 104, 36, 46
LETTER = 9.5
"""Width of a letter of a mark where the page is narrow and text is larger: marks keep so far apart."""
Point = tuple[Number, Number]
Write = Callable[[Number], str]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    """At its end; empty: none."""
    points: Sequence[Point]
    """(x, y); points that are not finite are left out."""
    colour: int = 0
    dashed: bool = False
    thin: bool = False
    """One of many: faint, without markers."""
    title: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis: its label, how values are written, its scale."""

    label: str
    write: Write
    log: bool = False
    whole: bool = False
    """Only integers are marked."""
    share: bool = False
    """Nothing below 0 or above 1 exists."""

    def layout(self, values: Sequence[Number]) -> tuple[list[Number], Callable[[Number], Number]]:
        """Marks for these values (on a linear axis they enclose them), and value → 0..1 along the axis."""
        ticks = (log_ticks if self.log else nice_ticks)(min(values), max(values))
        ticks = [tick for tick in ticks if tick == round(tick)] if self.whole else ticks
        ticks = [tick for tick in ticks if 0 <= tick <= 1] if self.share else ticks
        shape = math.log10 if self.log else float
        low, high = shape(min(*values, *ticks)), shape(max(*values, *ticks))
        return ticks, lambda value: (shape(value) - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot."""

    label: str
    value: Number
    interval: tuple[Number, Number] | None
    dots: Sequence[Number] = ()
    """Single values behind `value`."""
    colour: int = 0
    control: bool = False
    """Drawn hollow."""


def nice_ticks(low: Number, high: Number, count: int = 5) -> list[Number]:
    """About `count` round numbers (1, 2, 5 times a power of ten) around [low, high]."""
    if high - low <= max(1e-9 * abs(high), 1e-300):  # below, a fifth of it has no logarithm
        pad = abs(low) * 0.05 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[Number]:
    """Round numbers inside [low, high] (both > 0), at least two where the range allows."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 7)]
    return [tick for tick in nice_ticks(low, high, 3) if tick > 0]


def wide_range(values: Sequence[Number]) -> bool:
    """Whether a logarithmic axis reads better: all positive, more than a factor of ten apart."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 10


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Several series over one x; empty if no point is finite."""
    kept = [(one, [point for point in one.points if all(map(math.isfinite, point))]) for one in series]
    kept = [(one, points) for one, points in kept if points]
    if not kept:
        return Markup("")
    xs, ys = ([point[axis] for _, points in kept for point in points] for axis in (0, 1))
    (x_ticks, across), (y_ticks, up) = x.layout(xs), y.layout(ys)
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(point: Point) -> Point:
        return LEFT + (right - LEFT) * across(point[0]), base - (base - TOP) * up(point[1])

    below = [(place((tick, ys[0]))[0], tick) for tick in x_ticks]
    beside = [(place((xs[0], tick))[1], tick) for tick in y_ticks]
    body = [_axes(x, y, below, beside)]
    ends: list[tuple[Series, Point]] = []
    for one, points in kept:
        placed = [place(point) for point in points]
        words = [f"{one.title or one.label}: {x.write(a)}, {y.write(b)}" for a, b in points]
        body.append(_line(one, placed, words))
        ends.append((one, placed[-1]))
    return svg.whole(title, WIDTH, HEIGHT, [*body, *_end_labels([end for end in ends if end[0].label])])


def _axes(x: Axis, y: Axis, x_ticks: Sequence[Point], y_ticks: Sequence[Point]) -> Markup:
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [svg.text("axis", 4, 14, y.label), svg.text("axis end", right, HEIGHT - 6, x.label)]
    for place, tick in y_ticks:
        parts.append(svg.tag("line", "grid", x1=LEFT, x2=right, y1=place, y2=place))
        parts.append(svg.text("tick end", LEFT - 8, place + 4, y.write(tick)))
    parts.append(svg.tag("line", "base", x1=LEFT, x2=right, y1=base, y2=base))
    taken = -math.inf
    for place, tick in x_ticks:
        parts.append(svg.tag("line", "base", x1=place, x2=place, y1=base, y2=base + 4))
        half = LETTER * len(word := x.write(tick)) / 2
        if place - half >= taken:
            parts.append(svg.text("tick middle", place, base + 21, word))
            taken = place + half + LETTER
    return Markup("").join(parts)


def _line(series: Series, points: Sequence[Point], words: Sequence[str]) -> Markup:
    style = f"line c{series.colour % COLOURS}" + " dashed" * series.dashed + " thin" * series.thin
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    drawn = svg.path(style, path, series.title or series.label)
    if series.thin and len(points) > 1:
        return drawn
    shown = zip(points, words, strict=True) if len(points) <= 40 else [(points[-1], words[-1])]
    return drawn + Markup("").join(_marker(series, point, word) for point, word in shown)


def _marker(series: Series, point: Point, word: str) -> Markup:
    """Circle, square, triangle or diamond by colour; hollow on a dashed line."""
    a, b = point
    shape = (
        "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z", "m-3.2 -3.2h6.4v6.4h-6.4z",
        "m0 -4.2l4 7.2h-8z", "m0 -4.4l4.2 4.4l-4.2 4.4l-4.2 -4.4z",
    )[series.colour % 4]  # fmt: skip
    style = f"mark c{series.colour % COLOURS}" + " hollow" * series.dashed
    return svg.path(style, f"M{a:.1f} {b:.1f}{shape}", word)


def _end_labels(ends: Sequence[tuple[Series, Point]]) -> list[Markup]:
    """The series' labels right of their last points, moved to the roomier side until none covers another."""
    drawn: list[Markup] = []
    taken: list[Point] = []
    high = sum(b for _, (_, b) in ends) < len(ends) * HEIGHT / 2
    for series, (a, b) in sorted(ends, key=lambda end: end[1][1], reverse=not high):
        near = [other for at, other in taken if abs(at - a) < RIGHT]
        free = (max if high else min)([b, *(other + (17 if high else -17) for other in near)])
        taken.append((a, free))
        drawn.append(svg.text(f"label c{series.colour % COLOURS}", a + 9, free + 4, series.label))
    return drawn


def forest(title: str, rows: Sequence[Interval], mark: Write, write: Write) -> Markup:
    """Values with their intervals, one row each, on one axis; `mark` writes its ticks, `write` the values."""
    values = [v for row in rows for v in (row.value, *row.dots, *(row.interval or ()))]
    ticks, along = Axis("", mark, share=True).layout(values)
    left, right, step = 178, WIDTH - 72, 34
    height = 16 + step * len(rows) + 28

    def place(value: Number) -> Number:
        return left + (right - left) * along(value)

    body = [svg.tag("line", "grid", x1=place(tick), x2=place(tick), y1=8, y2=height - 28) for tick in ticks]
    body += [svg.text("tick middle", place(tick), height - 8, mark(tick)) for tick in ticks]
    for number, row in enumerate(rows):
        y, style = 16 + step * (number + 0.5), f"c{row.colour % COLOURS}"
        body.append(svg.text("row", 2, y + 4, row.label))
        body += [svg.tag("circle", f"dot {style}", cx=place(value), cy=y, r=2.5) for value in row.dots]
        if row.interval is not None:
            low, high = place(row.interval[0]), place(row.interval[1])
            body.append(svg.tag("line", f"whisker {style}", x1=low, x2=high, y1=y, y2=y))
        series = Series(row.label, (), row.colour, dashed=row.control)
        body.append(_marker(series, (place(row.value), y), f"{row.label}: {write(row.value)}"))
        body.append(svg.text("value end", WIDTH - 2, y + 4, write(row.value)))
    return svg.whole(title, WIDTH, height, body)
