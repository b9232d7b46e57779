"""Charts as SVG text: stacked columns over time, horizontal bars, lines. Colours are CSS classes, so they follow the theme.

Every chart has a name for screen readers, every mark a tooltip, and the page shows the same numbers as a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 720
# With room for the larger letters that a phone's width asks for (report.css).
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 14, 30
_BAR_LABEL, _BAR_HEIGHT, _BAR_GAP, _BAR_VALUES = 28, 14, 8, 90
_MOST_TICKS: Final = 7
_LABEL_HALF: Final = 44  # room that half a time label needs before the right edge


@dataclass(frozen=True, slots=True)
class Part:
    """One colour of a chart: `css` names its class, `title` is what people read."""

    css: str
    title: str


@dataclass(frozen=True, slots=True)
class Column:
    """One place on the time axis with a value for each part."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    values: tuple[float, ...]


def stacked_columns(name: str, parts: Sequence[Part], columns: Sequence[Column], *, height: int = 220) -> Markup:
    """Columns in the given order, each part on top of the one before it."""
    top = _ceiling(max((sum(column.values) for column in columns), default=0))
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    step = inner_width / max(1, len(columns))
    drawn = [*_grid(top, inner_width, inner_height)]
    for position, column in enumerate(columns):
        x, below = _LEFT + position * step, 0.0
        for part, value in zip(parts, column.values, strict=True):
            if value:
                y = _TOP + inner_height * (1 - (below + value) / top)
                size = inner_height * value / top
                tip = f"{column.label}: {_number(value)} {part.title}"
                drawn.append(_rect(part.css, x + step * 0.1, y, step * 0.8, size, tip))
                below += value
    drawn += _time_labels([column.label for column in columns], step, height)
    return _svg(name, height, drawn)


def lines(name: str, parts: Sequence[Part], columns: Sequence[Column], *, height: int = 180, unit: str = "") -> Markup:
    """One line per part over the columns, with a dot at every value."""
    top = _ceiling(max((value for column in columns for value in column.values), default=0))
    inner_width, inner_height = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    step = inner_width / max(1, len(columns))
    drawn = [*_grid(top, inner_width, inner_height)]
    for place, part in enumerate(parts):
        points = [
            (_LEFT + (position + 0.5) * step, _TOP + inner_height * (1 - column.values[place] / top), column)
            for position, column in enumerate(columns)
        ]
        for (x1, y1, _), (x2, y2, _) in pairwise(points):
            drawn.append(
                Markup('<line class="stroke {}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
                    part.css, x1, y1, x2, y2
                )
            )
        for x, y, column in points:
            tip = f"{column.label}: {part.title} {_number(column.values[place])}{unit}"
            drawn.append(
                Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>').format(
                    part.css, x, y, tip
                )
            )
    drawn += _time_labels([column.label for column in columns], step, height)
    return _svg(name, height, drawn)


def bars(name: str, parts: Sequence[Part], rows: Sequence[Bar]) -> Markup:
    """One horizontal bar per row below its label, its parts side by side, its sum written behind it."""
    pitch = _BAR_LABEL + _BAR_HEIGHT + _BAR_GAP
    height = len(rows) * pitch + _BAR_GAP
    longest = max((sum(row.values) for row in rows), default=0) or 1
    space = WIDTH - _BAR_VALUES
    drawn: list[Markup] = []
    for position, row in enumerate(rows):
        y, x = position * pitch + _BAR_LABEL, 0.0
        drawn.append(
            Markup('<text class="label" x="0" y="{}">{}<title>{}</title></text>').format(
                y - 6, _fitted(row.label), row.label
            )
        )
        for part, value in zip(parts, row.values, strict=True):
            if value:
                size = space * value / longest
                drawn.append(_rect(part.css, x, y, size, _BAR_HEIGHT, f"{row.label}: {_number(value)} {part.title}"))
                x += size
        drawn.append(
            Markup('<text class="value" x="{:.1f}" y="{:.1f}">{}</text>').format(
                x + 8, y + _BAR_HEIGHT - 1, _number(sum(row.values))
            )
        )
    return _svg(name, height, drawn)


def _svg(name: str, height: int, drawn: Sequence[Markup]) -> Markup:
    return Markup('<div class="scroll"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></div>').format(
        WIDTH, height, name, Markup().join(drawn)
    )


def _rect(css: str, x: float, y: float, width: float, height: float, tip: str) -> Markup:
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(css, x, y, max(width, 0.5), max(height, 0.5), tip)


def _grid(top: float, width: float, height: float) -> list[Markup]:
    drawn = []
    for fraction in (0, 0.5, 1):
        y = _TOP + height * (1 - fraction)
        drawn.append(
            Markup(
                '<line class="grid" x1="{0}" y1="{1:.1f}" x2="{2:.1f}" y2="{1:.1f}"/>'
                '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(_LEFT, y, _LEFT + width, _LEFT - 8, y + 4, _number(top * fraction))
        )
    return drawn


def _time_labels(labels: Sequence[str], step: float, height: int) -> list[Markup]:
    """At most eight, evenly spaced, so that they never run into each other; those `between` are left out on a phone."""
    every = max(1, math.ceil(len(labels) / _MOST_TICKS))
    return [
        Markup('<text class="tick{}" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            " between" if position // every % 2 else "", _LEFT + (position + 0.5) * step, height - 8, label
        )
        for position, label in enumerate(labels)
        if position % every == 0 and _LEFT + (position + 0.5) * step <= WIDTH - _LABEL_HALF
    ]


def _ceiling(value: float) -> float:
    """The next round number at which the axis can end; two for nothing, so that its half is whole too."""
    if value <= 2:
        return 2
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(
        magnitude * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if magnitude * factor >= value
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _fitted(label: str) -> Markup:
    longest = 44  # what fits above the bars in the largest type
    return escape(label if len(label) <= longest else f"{label[: longest - 1]}…")
