"""How a framebuffer lays out its pixels, and pictures in that layout. Pure, but for Pillow.

Source: linux/fb.h, structures fb_var_screeninfo, fb_fix_screeninfo and fb_bitfield.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops

from ...errors import EdgegenError

VAR_FORMAT = "@40I"  # 8 values, 4 bit fields of 3, 16 of timings and such, 4 reserved
FIX_FORMAT = "@16sL4I3HI0LLIIHHH0L"
VAR_SIZE, FIX_SIZE = struct.calcsize(VAR_FORMAT), struct.calcsize(FIX_FORMAT)
PACKED_PIXELS, TRUE_COLOURS = 0, (2, 4)  # FB_TYPE_PACKED_PIXELS; FB_VISUAL_TRUECOLOR and _DIRECTCOLOR
MODES = {2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's modes of so many bytes a pixel
MAX_SIDE = 16_384
BAYER = ((0, 32, 8, 40, 2, 34, 10, 42), (48, 16, 56, 24, 50, 18, 58, 26), (12, 44, 4, 36, 14, 46, 6, 38),
         (60, 28, 52, 20, 62, 30, 54, 22), (3, 35, 11, 43, 1, 33, 9, 41), (51, 19, 59, 27, 49, 17, 57, 25),
         (15, 47, 7, 39, 13, 45, 5, 37), (63, 31, 55, 23, 61, 29, 53, 21))  # fmt: skip


class DisplayError(EdgegenError, OSError):
    """The screen cannot be drawn on."""

    code = "no_display"


@dataclass(frozen=True)
class Channel:
    """A colour's place in a pixel's number: `length` bits (1 to 16) from bit `offset` up."""

    offset: int
    length: int

    def lookup(self, byte: int) -> list[int]:
        """(256,) what a colour of 0 to 255 adds to that byte of a little-endian pixel."""
        return [(self._scaled(value) << self.offset) >> (8 * byte) & 0xFF for value in range(256)]

    def _scaled(self, value: int) -> int:
        """0 to 255 on `length` bits: the highest ones, or repeated where there are more than 8."""
        return (value << 8 | value) >> (16 - self.length)


@dataclass(frozen=True)
class Geometry:
    """A framebuffer's visible part.

    Attributes:
        width, height: in pixels. depth: bits a pixel takes: 16, 24 or 32.
        alpha: bits that are always set, where there are any.
        stride: bytes from a row to the next. start: the byte of the first visible pixel.
    """

    width: int
    height: int
    depth: int
    red: Channel
    green: Channel
    blue: Channel
    stride: int
    start: int = 0
    name: str = ""
    alpha: Channel | None = None

    @property
    def pixel_bytes(self) -> int:
        return self.depth // 8

    def place(self, left: int, top: int) -> int:
        """The byte where a pixel begins."""
        return self.start + top * self.stride + left * self.pixel_bytes

    def pack(self, image: Image.Image) -> bytes:
        """An RGB picture's pixels in this layout, row by row without gaps.

        Colours of fewer than 8 bits are dithered, or skies would come in bands.
        """
        channels = (self.red, self.green, self.blue)
        colours = [_dithered(c, channel.length) for c, channel in zip(image.split(), channels, strict=True)]
        planes = (self._plane(byte, colours, channels) for byte in range(self.pixel_bytes))
        return Image.merge(MODES[self.pixel_bytes], tuple(planes)).tobytes()

    def _plane(self, byte: int, colours: list[Image.Image], channels: tuple[Channel, ...]) -> Image.Image:
        """One byte of every pixel: what each colour adds to it."""
        plane = Image.new("L", colours[0].size, self.alpha.lookup(byte)[255] if self.alpha else 0)
        for colour, channel in zip(colours, channels, strict=True):
            if any(table := channel.lookup(byte)):
                plane = ImageChops.add(plane, colour.point(table))
        return plane

    def __str__(self) -> str:
        name = f"{self.name}, " if self.name else ""
        return f"{name}{self.width}x{self.height}, {self.depth} bits a pixel"


def _dithered(colour: Image.Image, length: int) -> Image.Image:
    """With up to one step of `length` bits added, so that cutting the rest off keeps the mean."""
    if length >= 8:
        return colour
    step = 1 << (8 - length)
    room = colour.point([round(value * (256 - step) / 255) for value in range(256)])
    return ImageChops.add(room, _dither_pattern(colour.size, 8 - length))


@lru_cache(maxsize=4)
def _dither_pattern(size: tuple[int, int], bits: int) -> Image.Image:
    """Bayer's 8x8 thresholds, scaled to 0 to 2**bits - 1, side by side."""
    width, height = size
    rows = [(bytes(value >> (6 - bits) for value in row) * (width // 8 + 1))[:width] for row in BAYER]
    return Image.frombytes("L", size, b"".join(rows[y % 8] for y in range(height)))


def read_geometry(var: bytes, fix: bytes) -> Geometry:
    """What FBIOGET_VSCREENINFO and FBIOGET_FSCREENINFO returned.

    Raises:
        DisplayError: a layout that we do not draw: palettes, planes, grey, fewer than 16 bits.
    """
    values = struct.unpack(VAR_FORMAT, var)
    width, height, _, _, left, top, depth, grey = values[:8]
    red, green, blue, alpha = (Channel(*values[at : at + 2]) for at in (8, 11, 14, 17))
    name, _, _, kind, _, visual, _, _, _, stride, *_ = struct.unpack(FIX_FORMAT, fix)
    if kind != PACKED_PIXELS or visual not in TRUE_COLOURS or grey or depth not in (16, 24, 32):
        raise DisplayError(
            f"{depth} bits a pixel in type {kind}, visual {visual} are not drawn: set the screen to 16, 24 "
            "or 32 bits of true colour"
        )
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and stride >= (left + width) * depth // 8):
        raise DisplayError(f"{width}x{height} pixels in rows of {stride} bytes make no screen")
    if not all(0 < c.length <= 16 and c.offset + c.length <= depth for c in (red, green, blue)):
        raise DisplayError(f"colours at bits {red}, {green}, {blue} do not fit {depth} bits")
    start = top * stride + left * depth // 8
    driver = name.split(b"\0")[0].decode("ascii", "replace")
    opaque = alpha if alpha.length else None
    return Geometry(width, height, depth, red, green, blue, stride, start, driver, opaque)
