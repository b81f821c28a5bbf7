"""A picture that shows what is wrong with a screen: which way up, colours, edges cut off."""

from __future__ import annotations

from PIL import Image, ImageDraw

from .easel import Screen, turned
from .lettering import Typeface

COLOURS = ("#ff0000", "#00ff00", "#0000ff", "#00ffff", "#ff00ff", "#ffff00")
NAMES = ("red", "green", "blue", "cyan", "magenta", "yellow")


def show_test_card(screen: Screen, rotate: int) -> None:
    """Raises DisplayError."""
    width, height = screen.size
    size = (height, width) if rotate in (90, 270) else (width, height)
    screen.show([(turned(test_card(size, rotate), rotate), 0, 0)])


def test_card(size: tuple[int, int], rotate: int) -> Image.Image:
    """RGB of that size: a border on the outermost pixels, an arrow up, named colours, grey steps."""
    card = Image.new("RGB", size, "#202020")
    draw, unit = ImageDraw.Draw(card), min(size) / 100
    thick = max(1, round(unit))
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline="#ffffff", width=thick)
    _draw_arrow(draw, size[0] / 2, unit)
    _draw_text(draw, size, unit, f"{size[0]}x{size[1]}, turned by {rotate}°")
    _draw_colours(draw, size, unit)
    _draw_greys(draw, size, unit)
    return card


def _draw_arrow(draw: ImageDraw.ImageDraw, middle: float, unit: float) -> None:
    head = [(middle, 6 * unit), (middle - 14 * unit, 22 * unit), (middle + 14 * unit, 22 * unit)]
    draw.polygon(head, fill="#ffffff")
    draw.rectangle((middle - 5 * unit, 22 * unit, middle + 5 * unit, 34 * unit), fill="#ffffff")


def _draw_text(draw: ImageDraw.ImageDraw, size: tuple[int, int], unit: float, told: str) -> None:
    face, middle = Typeface(), size[0] / 2
    draw.text((middle, 42 * unit), "This edge is up", "#ffffff", face.at(round(7 * unit)), anchor="mm")
    draw.text((middle, 51 * unit), told, "#a0a0a0", face.at(max(8, round(3.5 * unit))), anchor="mm")


def _draw_colours(draw: ImageDraw.ImageDraw, size: tuple[int, int], unit: float) -> None:
    step, top = (size[0] - 12 * unit) / len(COLOURS), size[1] - 38 * unit
    font = Typeface().at(max(8, round(3 * unit)))
    for i, (colour, name) in enumerate(zip(COLOURS, NAMES, strict=True)):
        left = 6 * unit + i * step
        draw.rectangle((left, top, left + step - 1, top + 16 * unit), fill=colour)
        draw.text((left + step / 2, top - 3 * unit), name, "#ffffff", font, anchor="mm")


def _draw_greys(draw: ImageDraw.ImageDraw, size: tuple[int, int], unit: float) -> None:
    """From black to white without a step, where the screen has all of them."""
    left, right = round(6 * unit), round(size[0] - 6 * unit)
    for x in range(left, right):
        grey = round(255 * (x - left) / max(1, right - left - 1))
        draw.line((x, size[1] - 18 * unit, x, size[1] - 8 * unit), fill=(grey, grey, grey))
