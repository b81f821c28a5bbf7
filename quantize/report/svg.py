"""SVG by hand: a dozen lines draw a bar, and the result is text that a page or a README can hold.

Standard library only: `bench/` draws with it where no extra is installed. Colours are classes, so that one
drawing is readable in light and dark; `standalone` adds the colours that a page would otherwise give.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Point = tuple[float, float]

PALETTE = """
:root {
  --ink: #1b1f24; --soft: #59636e; --line: #d9dee4;
  --fill: #aab4c0; --accent: #0f766e; --paper: #ffffff
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8ebee; --soft: #9aa5b1; --line: #343b44;
    --fill: #5d6874; --accent: #2dd4bf; --paper: #14171b
  }
}
@media print {
  :root {
    --ink: #000000; --soft: #404852; --line: #cfd5db;
    --fill: #9aa5b1; --accent: #0f766e; --paper: #ffffff
  }
}
"""
MARKS = """
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink) }
svg .title { font-size: 17px; font-weight: 650 }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 5px; stroke-linejoin: round }
svg .soft { fill: var(--soft) }
svg .strong { font-weight: 650 }
svg .accent-text { fill: var(--accent); font-weight: 650 }
svg .paper { fill: var(--paper) }
svg .bar { fill: var(--fill) }
svg .accent { fill: var(--accent) }
svg .grid { stroke: var(--line); stroke-width: 1 }
svg .axis { stroke: var(--soft); stroke-width: 1 }
svg .limit { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4 }
svg .curve { stroke: var(--fill); stroke-width: 2; fill: none }
svg .curve.first { stroke: var(--accent); stroke-width: 3 }
svg .dot { fill: var(--fill); stroke: var(--paper); stroke-width: 1.5 }
svg .dot.first { fill: var(--accent) }
"""


def text(at: Point, words: object, css: str = "", anchor: str = "start") -> str:
    """Words with their baseline at a point; `anchor` start, middle or end."""
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{css}">{escape(str(words))}</text>'


def rect(at: Point, width: float, height: float, css: str, tip: str = "", radius: float = 2) -> str:
    """A box from its upper left corner; `tip` shows under the mouse."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect {place} rx="{radius:g}" class="{css}">{title}</rect>'


def line(start: Point, end: Point, css: str) -> str:
    """A straight line."""
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} class="{css}"/>'


def curve(points: Iterable[Point], css: str) -> str:
    """A line through points."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" class="curve {css}"/>'


def dot(at: Point, css: str, tip: str) -> str:
    """A point of a curve; `tip` shows under the mouse."""
    place = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4.5"'
    return f'<circle {place} class="dot {css}"><title>{escape(tip)}</title></circle>'


def drawing(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """An `<svg>` for a page; `label` is what is read aloud in its place."""
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
    return f'{head} aria-label="{escape(label)}">' + "".join(parts) + "</svg>"


def standalone(svg: str, width: float, height: float) -> str:
    """A drawing as a file of its own: with its colours, its size and its paper."""
    start = svg.index(">")
    paper = rect((0, 0), width, height, "paper", radius=6)
    size = f' xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
    return f"{svg[:start]}{size}><style>{PALETTE}{MARKS}</style>{paper}{svg[start + 1 :]}\n"


def text_width(words: str, size: float = 13) -> float:
    """About how wide words are, in pixels: nobody here knows the reader's font."""
    return sum(0.32 if c in "iljtf.,:;'|! ()[]" else 0.62 if not c.isupper() else 0.7 for c in words) * size
