"""The pixels of a part. Colours follow from the background: light letters on dark, dark ones on light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw

from ...errors import StorageError
from .layout import Bar, Content, Part, Picture, Preview, Words
from .lettering import Typeface, writable, write
from .pictures import contained, covering, read_picture, read_preview
from .scenes import Scene, Showing

LIGHT, DARK = (240, 240, 240), (20, 20, 20)
QUIET, TRACK = 0.62, 0.22  # how much of the ink is in quiet words, and in the empty part of a bar
VEIL, VEIL_ALPHA = (0, 0, 0), 150  # behind words on a picture
CAPTION_LINES = 2


@dataclass(frozen=True)
class Style:
    """What all parts share; `gallery` is the folder of pictures."""

    background: str
    face: Typeface
    gallery: Path

    @property
    def ink(self) -> tuple[int, int, int]:
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else LIGHT  # Rec. 601 luma

    def mixed(self, share: float) -> str:
        """That share of ink in the background."""
        colours = zip(self.ink, ImageColor.getrgb(self.background)[:3], strict=True)
        return "#" + "".join(f"{round(i * share + b * (1 - share)):02x}" for i, b in colours)


def legible(scene: Scene, style: Style) -> Scene:
    """A picture whose words no font here can write has none: their room is the picture's then."""
    if isinstance(scene, Showing) and not writable(scene.prompt, style.face)[0]:
        return replace(scene, prompt="")
    return scene


def draw_part(part: Part, style: Style) -> Image.Image:
    """A picture of its box's size, RGB.

    Raises:
        StorageError: a picture of the gallery cannot be shown.
    """
    left, top, right, bottom = part.box
    tile = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), style.background)
    draw: Callable[[Image.Image, Content, Style], Image.Image] = DRAWERS[type(part.content)]
    return draw(tile, part.content, style)


def draw_parts(parts: tuple[Part, ...], size: tuple[int, int], style: Style) -> Image.Image:
    """The whole screen. Raises as `draw_part` does."""
    screen = Image.new("RGB", size, style.background)
    for part in parts:
        screen.paste(draw_part(part, style), part.box[:2])
    return screen


def _draw_words(tile: Image.Image, words: Words, style: Style) -> Image.Image:
    text, face = writable(words.text, style.face)
    write(tile, text, face, words.size, style.mixed(QUIET if words.is_quiet else 1.0), words.lines)
    return tile


def _draw_bar(tile: Image.Image, bar: Bar, style: Style) -> Image.Image:
    draw, (width, height) = ImageDraw.Draw(tile), tile.size
    radius = height / 2
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=style.mixed(TRACK))
    if bar.done > 0:
        filled = max(height, round(width * min(1.0, bar.done)))
        draw.rounded_rectangle((0, 0, filled - 1, height - 1), radius, fill=style.mixed(1.0))
    return tile


def _draw_preview(tile: Image.Image, preview: Preview, style: Style) -> Image.Image:  # noqa: ARG001
    """What is no preview is left out: the picture will come."""
    try:
        image = contained(read_preview(preview.jpeg), tile.size)
    except StorageError:
        return tile
    return _centred(tile, image)


def _draw_picture(tile: Image.Image, picture: Picture, style: Style) -> Image.Image:
    image = read_picture(style.gallery / picture.name, tile.size)
    tile = covering(image, tile.size) if picture.covers else _centred(tile, contained(image, tile.size))
    text, face = writable(picture.caption, style.face)
    return _veiled(tile, text, face, picture.size) if text else tile


def _veiled(tile: Image.Image, text: str, face: Typeface, size: int) -> Image.Image:
    """Words over the lower edge, on a veil that leaves the picture to be guessed behind them."""
    height = min(tile.height, round(size * 1.3 * CAPTION_LINES + size))
    box = (0, tile.height - height, tile.width, tile.height)
    band = tile.crop(box)
    band.paste(VEIL, (0, 0), Image.new("L", band.size, VEIL_ALPHA))
    margin = round(tile.width * 0.04)
    words = band.crop((margin, 0, tile.width - margin, height))
    write(words, text, face, size, "#f0f0f0", CAPTION_LINES)
    band.paste(words, (margin, 0))
    tile.paste(band, box[:2])
    return tile


def _centred(tile: Image.Image, image: Image.Image) -> Image.Image:
    tile.paste(image, ((tile.width - image.width) // 2, (tile.height - image.height) // 2))
    return tile


DRAWERS: dict[type, Callable[..., Image.Image]] = {
    Words: _draw_words,
    Bar: _draw_bar,
    Preview: _draw_preview,
    Picture: _draw_picture,
}
