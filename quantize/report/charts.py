"""Bars and lines on labelled axes, with limits drawn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .scales import Scale, padded, short
from .svg import Point, curve, dot, drawing, line, rect, text, text_width

WIDTH = 720.0
MARGIN = 20.0
BAR, GAP, HEADING = 20.0, 8.0, 34.0
PLOT_HEIGHT = 300.0
LABEL_GAP = 16.0
LABEL_SIZE = 14.0  # 13, and room for those in bold

Series = Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Bar:
    """One bar: `ours` draws it in the accent colour, `note` stands behind its value."""

    label: str
    value: float
    note: str = ""
    ours: bool = False
    group: str = ""


@dataclass(frozen=True)
class Limit:
    """A line to stay below or above."""

    value: float
    label: str


def bar_chart(
    bars: Sequence[Bar], title: str, unit: str, limit: Limit | None = None, top: float = 44
) -> tuple[str, float, float]:
    """Horizontal bars from zero, in the order given; bars of one `group` stand under its name.

    Returns:
        The drawing, its width and its height.
    """
    labels = max((text_width(bar.label, LABEL_SIZE) for bar in bars), default=0)
    left = min(340.0, labels + MARGIN + 12)
    tail = max((text_width(_value(bar, unit)) for bar in bars), default=0) + 8
    largest = max([bar.value for bar in bars] + ([limit.value] if limit else []), default=1.0) or 1.0
    x = Scale(0, largest, left, WIDTH - MARGIN - tail)
    parts, y = [text((MARGIN, 28), title, "title")], top
    bottom = top + len(bars) * (BAR + GAP) + (HEADING - 6) * len({bar.group for bar in bars if bar.group})
    if limit:  # first, so that values stand on it
        parts += _upright_limit(limit, x(limit.value), top - 4, bottom)
    for i, bar in enumerate(bars):
        if bar.group and (i == 0 or bars[i - 1].group != bar.group):
            parts.append(text((MARGIN, y + 18), bar.group, "strong"))
            y += HEADING - 6
        parts += _bar(bar, x, y, left, unit)
        y += BAR + GAP
    height = bottom + MARGIN - GAP + (20 if limit else 0)
    return drawing(WIDTH, height, parts, _spoken(title, bars, unit)), WIDTH, height


def _bar(bar: Bar, x: Scale, y: float, left: float, unit: str) -> list[str]:
    css, words = ("accent", "accent-text") if bar.ours else ("bar", "plain")
    middle = y + BAR / 2 + 4.5
    return [
        text((left - 10, middle), bar.label, "strong" if bar.ours else "", "end"),
        rect((left, y), max(1.0, x(bar.value) - left), BAR, css, f"{bar.label}: {_value(bar, unit)}"),
        text((x(bar.value) + 8, middle), _value(bar, unit), f"{words} halo"),
    ]


def _value(bar: Bar, unit: str) -> str:
    return f"{short(bar.value)} {unit}" + (f" ({bar.note})" if bar.note else "")


def _upright_limit(limit: Limit, x: float, top: float, bottom: float) -> list[str]:
    anchor = "end" if x > WIDTH * 0.6 else "start"
    words = text((x, bottom + 14), f"{limit.label}: {short(limit.value)}", "soft", anchor)
    return [line((x, top), (x, bottom), "limit"), words]


def _spoken(title: str, bars: Sequence[Bar], unit: str) -> str:
    return f"{title}. " + "; ".join(f"{bar.group} {bar.label} {_value(bar, unit)}".strip() for bar in bars)


@dataclass(frozen=True)
class Axes:
    """What the axes say and how they run.

    Attributes:
        falling: x runs from its highest value to its lowest.
        zero: y starts at 0 (not on a log axis).
    """

    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    falling: bool = False
    zero: bool = False
    x_ticks: Sequence[float] | None = None


def line_chart(
    series: Series,
    title: str,
    axes: Axes,
    limit: Limit | None = None,
    first: str | None = None,
    width: float = WIDTH,
) -> tuple[str, float, float]:
    """Curves with a dot at every point and their names at their ends.

    Args:
        series: name -> points (x, y).
        first: the curve in the accent colour; the first one unless named.
    Returns:
        The drawing, its width and its height.
    """
    first = first or next(iter(series))
    top = 64.0 if title else 34.0
    x, y = _scales(series, axes, limit, top, width)
    parts = [text((MARGIN, 28), title, "title")] if title else []
    parts += _grid(series, x, y, axes)
    if limit:
        parts.append(line((x.start, y(limit.value)), (x.end, y(limit.value)), "limit"))
        parts.append(
            text((x.end, y(limit.value) - 6), f"{limit.label}: {short(limit.value)}", "soft halo", "end")
        )
    for name in sorted(series, key=lambda name: name == first):  # ours on top
        parts += _curve(name, series[name], x, y, "first" if name == first else "")
    if len(series) > 1:
        parts += _names(series, x, y, first)
    height = y.start + 52
    spoken = f"{title}. " + "; ".join(f"{name}: {_points(points)}" for name, points in series.items())
    return drawing(width, height, parts, spoken), width, height


def _scales(series: Series, axes: Axes, limit: Limit | None, top: float, width: float) -> tuple[Scale, Scale]:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points] + ([limit.value] if limit else [])
    low, high = padded(ys, axes.y_log)
    low = 0.0 if axes.zero and not axes.y_log else low
    names = max(text_width(name) for name in series) + 14 if len(series) > 1 else 8
    x_low, x_high = padded(xs, axes.x_log, 0.03)
    ends = (x_high, x_low) if axes.falling else (x_low, x_high)
    x = Scale(*ends, MARGIN + 48, width - MARGIN - min(names, 220), axes.x_log)
    return x, Scale(low, high, top + PLOT_HEIGHT, top, axes.y_log)


def _grid(series: Series, x: Scale, y: Scale, axes: Axes) -> list[str]:
    parts = [text((MARGIN, y.end - 14), axes.y_label, "soft")]
    for value in y.ticks():
        parts.append(line((x.start, y(value)), (x.end, y(value)), "grid"))
        parts.append(text((x.start - 8, y(value) + 4.5), short(value), "soft", "end"))
    visited = sorted({at for points in series.values() for at, _ in points})
    ticks = axes.x_ticks or (visited if len(visited) <= 8 else x.ticks())
    parts += [text((x(value), y.start + 20), short(value), "soft", "middle") for value in ticks]
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    return [*parts, text(((x.start + x.end) / 2, y.start + 42), axes.x_label, "soft", "middle")]


def _curve(name: str, points: Sequence[Point], x: Scale, y: Scale, css: str) -> list[str]:
    places = [(x(at), y(value)) for at, value in points]
    tips = [f"{name} at {short(at)}: {short(value)}" for at, value in points]
    dots = [dot(place, css, tip) for place, tip in zip(places, tips, strict=True)]
    return [curve(places, css), *dots]


def _names(series: Series, x: Scale, y: Scale, first: str) -> list[str]:
    """Names beside the curves' last points, pushed apart where they would touch."""
    last = -1e9
    parts = []
    for name, points in sorted(series.items(), key=lambda item: y(item[1][-1][1])):
        last = max(y(points[-1][1]), last + LABEL_GAP)
        parts.append(text((x.end + 10, last + 4.5), name, "accent-text" if name == first else ""))
    return parts


def _points(points: Sequence[Point]) -> str:
    return ", ".join(f"{short(y)} at {short(x)}" for x, y in points)
