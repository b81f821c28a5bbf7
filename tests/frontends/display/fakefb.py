"""A framebuffer that is a regular file, with the ioctls of linux/fb.h answered from a geometry."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from edgegen.frontends.display.framebuffer import (
    FBIOBLANK,
    FBIOGET_FSCREENINFO,
    FBIOGET_VSCREENINFO,
    Framebuffer,
)

RGB565 = (16, (11, 5), (5, 6), (0, 5), (0, 0))  # depth, then offset and length of red, green, blue, alpha
BGR565 = (16, (0, 5), (5, 6), (11, 5), (0, 0))
RGB888 = (24, (16, 8), (8, 8), (0, 8), (0, 0))
XRGB8888 = (32, (16, 8), (8, 8), (0, 8), (0, 0))
XBGR8888 = (32, (0, 8), (8, 8), (16, 8), (0, 0))
ARGB8888 = (32, (16, 8), (8, 8), (0, 8), (24, 8))
XRGB2101010 = (32, (20, 10), (10, 10), (0, 10), (0, 0))
LAYOUTS = {"RGB565": RGB565, "BGR565": BGR565, "RGB888": RGB888, "XRGB8888": XRGB8888,
           "XBGR8888": XBGR8888, "ARGB8888": ARGB8888, "XRGB2101010": XRGB2101010}  # fmt: skip


def var_bytes(width, height, layout=XRGB8888, xoffset=0, yoffset=0, grayscale=0) -> bytes:
    """struct fb_var_screeninfo: eight numbers, four bit fields, twenty numbers that nobody reads here."""
    depth, *channels = layout
    fields = [n for offset, length in channels for n in (offset, length, 0)]
    head = (width, height, width, height * 2, xoffset, yoffset, depth, grayscale)
    return struct.pack("40I", *head, *fields, *range(20))


def fix_bytes(stride, kind=0, visual=2, name=b"fakefb") -> bytes:
    """struct fb_fix_screeninfo, as a C compiler lays it out."""
    head = struct.pack("@16sL4I3H", name, 0xDEAD, 4096, kind, 0, visual, 1, 1, 0)
    head += bytes(-len(head) % 4)
    rest = struct.pack("I", stride)
    size = struct.calcsize("L")
    rest += bytes(-(len(head) + len(rest)) % size) + struct.pack("@LII3H", 0, 0, 0, 0, 0, 0)
    return head + rest + bytes(-(len(head) + len(rest)) % size)


@dataclass
class FakeFramebuffer:
    """One device; `blanked` is what FBIOBLANK was last told."""

    path: Path
    width: int
    height: int
    layout: tuple = XRGB8888
    padding: int = 0  # bytes behind each row
    xoffset: int = 0
    yoffset: int = 0
    knows_blanking: bool = True
    blanked: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.path.write_bytes(b"\xaa" * (self.stride * (self.height + self.yoffset)))

    @property
    def stride(self) -> int:
        return (self.width + self.xoffset) * self.layout[0] // 8 + self.padding

    def ioctl(self, fd, request, argument):
        if request == FBIOGET_VSCREENINFO:
            return var_bytes(self.width, self.height, self.layout, self.xoffset, self.yoffset)
        if request == FBIOGET_FSCREENINFO:
            return fix_bytes(self.stride)
        assert request == FBIOBLANK
        if not self.knows_blanking:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.blanked.append(argument)
        return 0

    def open(self) -> Framebuffer:
        return Framebuffer(self.path, self.ioctl)

    def seen(self) -> Image.Image:
        """What a screen makes of the bytes: each colour's bits, spread over 0 to 255."""
        data, size = self.path.read_bytes(), self.layout[0] // 8
        image = Image.new("RGB", (self.width, self.height))
        for y in range(self.height):
            for x in range(self.width):
                at = (y + self.yoffset) * self.stride + (x + self.xoffset) * size
                pixel = int.from_bytes(data[at : at + size], "little")
                image.putpixel((x, y), tuple(self._level(pixel, *c) for c in self.layout[1:4]))
        return image

    @staticmethod
    def _level(pixel: int, offset: int, length: int) -> int:
        most = (1 << length) - 1
        return round((pixel >> offset & most) * 255 / most)
