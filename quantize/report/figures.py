"""The page's drawings: small enough for a phone, in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from .charts import Axes, Limit, line_chart
from .conclusions import layer_name
from .data import PictureRow
from .facts import SSIM_BAR, GraphFacts
from .scales import Scale, padded, short
from .svg import dot, drawing, line, rect, text

WIDTH = 560.0
QUIET_DB = 60.0  # layers this much quieter than the loudest are all alike
LEFT, RIGHT, TOP, HEIGHT = 54.0, 12.0, 34.0, 190.0


def meter(value: float, largest: float, ours: bool = True) -> Markup:
    """A bar for a table's cell; the figure stands beside it, so it is hidden from readers aloud."""
    width = 100 * min(1.0, value / largest) if largest > 0 else 0
    bar = rect((0, 0), width, 8, "accent" if ours else "bar", radius=0)
    head = '<svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(f"{head}{rect((0, 0), 100, 8, 'track', radius=0)}{bar}</svg>")


def layer_strip(graph: GraphFacts) -> Markup:
    """All layers of a graph side by side, loudest first: the higher, the more noise."""
    levels = [layer.sqnr_db for layer in graph.layers]
    limits = [graph.target_db] if graph.target_db is not None else []
    low, high = padded([*levels, *limits], log=False)
    high = min(high, max(low + 10, min([*levels, *limits]) + QUIET_DB))
    x = Scale(0, len(levels), LEFT, WIDTH - RIGHT)
    y = Scale(high, low, TOP + HEIGHT, TOP)  # few dB are loud, and stand high
    parts = _levels(y, "SQNR with this layer alone in 8 bits, dB")
    gap = 0.2 if len(levels) > 60 else 2
    for i, layer in enumerate(graph.layers):
        top = y(min(layer.sqnr_db, high))
        tip = f"{layer.name}: {layer.sqnr_db:.1f} dB" + (", float" if layer.kept else "")
        wide = min(40.0, x(i + 1) - x(i))
        css = "accent" if layer.kept else "bar"
        parts.append(rect((x(i), top), wide - gap, y.start - top, css, tip, radius=0))
    if graph.target_db is not None:
        parts += _limit(y, graph.target_db, f"target of the graph: {short(graph.target_db)} dB")
    parts.append(line((LEFT, y.start), (WIDTH - RIGHT, y.start), "axis"))
    parts.append(text((LEFT, y.start + 20), "loudest layer", "soft"))
    parts.append(text((WIDTH - RIGHT, y.start + 20), "quietest", "soft", "end"))
    loudest = layer_name(graph.layers[0].name, graph.role)
    label = (
        f"{len(levels)} layers of {graph.role} from {min(levels):.1f} dB ({loudest}) to {max(levels):.1f} dB"
    )
    return Markup(drawing(WIDTH, y.start + 34, parts, label))


def timestep_chart(graph: GraphFacts) -> Markup:
    """The denoiser's drift from noise to picture."""
    axes = Axes("timestep: noise on the left, the picture on the right", "SQNR, dB", falling=True)
    limit = Limit(graph.target_db, "target of the graph, dB") if graph.target_db is not None else None
    return Markup(line_chart({graph.role: graph.timesteps}, "", axes, limit, width=WIDTH)[0])


def ssim_strip(rows: Sequence[PictureRow]) -> Markup:
    """SSIM of every picture, worst first, over the bar to reach."""
    values = [row.ssim for row in rows]
    low, high = padded([*values, SSIM_BAR, 1.0], log=False)
    x = Scale(-0.5, len(rows) - 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(low, high, TOP + HEIGHT, TOP)
    parts = _levels(y, "SSIM to float32")
    parts += _limit(y, SSIM_BAR, f"to reach: {SSIM_BAR}")
    for i, row in enumerate(rows):
        css = "first" if row.ssim >= SSIM_BAR else "below"
        parts.append(dot((x(i), y(row.ssim)), css, f"{row.prompt}, seed {row.seed}: {row.ssim:.4f}"))
    parts.append(line((LEFT, y.start), (WIDTH - RIGHT, y.start), "axis"))
    parts.append(text((LEFT, y.start + 20), "worst picture", "soft"))
    parts.append(text((WIDTH - RIGHT, y.start + 20), "best", "soft", "end"))
    label = f"SSIM of {len(rows)} pictures from {min(values):.4f} to {max(values):.4f}; to reach: {SSIM_BAR}"
    return Markup(drawing(WIDTH, y.start + 34, parts, label))


def _levels(y: Scale, label: str) -> list[str]:
    parts = [text((8, TOP - 16), label, "soft")]
    for value in y.ticks():
        parts.append(line((LEFT, y(value)), (WIDTH - RIGHT, y(value)), "grid"))
        parts.append(text((LEFT - 8, y(value) + 4.5), short(value), "soft", "end"))
    return parts


def _limit(y: Scale, value: float, label: str) -> list[str]:
    words = text((WIDTH - RIGHT, y(value) - 6), label, "halo", "end")
    return [line((LEFT, y(value)), (WIDTH - RIGHT, y(value)), "limit"), words]
