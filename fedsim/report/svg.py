"""Pieces of a picture in SVG: escaped words, numbers to a tenth of a unit."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fedsim.report.numbers import Number


def path(style: str, way: str, title: str) -> Markup:
    """A line or shape along `way`, SVG's own words for it; its title is what a pointer over it shows."""
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(style, way, title)


def tag(name: str, style: str, **numbers: Number) -> Markup:
    """An element with a class and numbers."""
    places = " ".join(f'{key}="{value:.1f}"' for key, value in numbers.items())
    return Markup(f'<{name} class="{style}" {places}/>')


def text(style: str, x: Number, y: Number, words: str) -> Markup:
    """Words at a place."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def whole(title: str, width: Number, height: Number, body: Sequence[Markup], style: str = "") -> Markup:
    """The picture: a map where it has a style of its own, else a chart."""
    kind = Markup(' class="map" style="{}"').format(style) if style else Markup(' class="chart"')
    frame = '<svg{} role="img" aria-label="{}" viewBox="0 0 {} {}"><title>{}</title>{}</svg>'
    return Markup(frame).format(kind, title, width, height, title, Markup("").join(body))
