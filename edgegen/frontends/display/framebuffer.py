"""A screen's framebuffer: `/dev/fb0` of the kernel, no X and no Wayland."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .pixelformat import FIX_SIZE, VAR_SIZE, DisplayError, Geometry, read_geometry

FBIOGET_VSCREENINFO, FBIOGET_FSCREENINFO, FBIOBLANK = 0x4600, 0x4602, 0x4611
POWER_DOWN, UNBLANK = 4, 0  # FB_BLANK_POWERDOWN, FB_BLANK_UNBLANK

Ioctl = Callable[[int, int, Any], Any]


class Framebuffer:
    """Draws with `pwrite`, which also tells drivers that copy to their device what has changed.

    Args:
        ioctl: the kernel's, or a test's.
    Raises (every method):
        DisplayError: what the device refused, and what to do.
    """

    rest_s = 0.05  # between two changes of a progress bar

    def __init__(self, device: Path, ioctl: Ioctl = fcntl.ioctl):
        self.device = device
        self._ioctl = ioctl
        self._fd = _open(device)
        try:
            self.geometry = self._read_geometry()
        except BaseException:
            self.close()
            raise
        self.size = self.geometry.width, self.geometry.height

    def _read_geometry(self) -> Geometry:
        try:
            var = self._ioctl(self._fd, FBIOGET_VSCREENINFO, bytes(VAR_SIZE))
            fix = self._ioctl(self._fd, FBIOGET_FSCREENINFO, bytes(FIX_SIZE))
        except OSError as err:
            raise DisplayError(f"{self.device} is no framebuffer: {err.strerror}") from err
        try:
            return read_geometry(var, fix)
        except DisplayError as err:
            raise DisplayError(f"{self.device}: {err}") from err

    def show(self, pieces: Sequence[tuple[Image.Image, int, int]]) -> None:
        """RGB pictures, each with the pixel of its upper left corner; they must lie on the screen."""
        if (now := self._read_geometry()) != self.geometry:
            raise DisplayError(f"{self.device} has changed from {self.geometry} to {now}")
        for piece in pieces:
            self._show(*piece)

    def _show(self, image: Image.Image, left: int, top: int) -> None:
        geometry = self.geometry
        row, packed = image.width * geometry.pixel_bytes, memoryview(geometry.pack(image))
        if row == geometry.stride:
            self._write(packed, geometry.place(left, top))
            return
        for y in range(image.height):
            self._write(packed[y * row : (y + 1) * row], geometry.place(left, top + y))

    def dark(self, is_dark: bool) -> None:
        """Black, and the screen's light off where the driver can."""
        if is_dark:
            for y in range(self.geometry.height):
                self._write(bytes(self.geometry.width * self.geometry.pixel_bytes), self.geometry.place(0, y))
        with contextlib.suppress(OSError):  # many drivers know no blanking
            self._ioctl(self._fd, FBIOBLANK, POWER_DOWN if is_dark else UNBLANK)

    def __str__(self) -> str:
        return f"{self.device}: {self.geometry}"

    def saved(self) -> bytes:
        """What the screen's memory holds now, for `restore`."""
        with _told(self.device):
            return os.pread(self._fd, self.geometry.place(0, self.geometry.height), 0)

    def restore(self, saved: bytes) -> None:
        self._write(memoryview(saved), 0)

    def close(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, data: memoryview | bytes, at: int) -> None:
        with _told(self.device):
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written


def _open(device: Path) -> int:
    with _told(device):
        return os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)


@contextlib.contextmanager
def _told(device: Path) -> Iterator[None]:
    """The kernel's words, and what to do."""
    try:
        yield
    except FileNotFoundError as err:
        raise DisplayError(
            f"{device} is not there: is a screen connected? (on a Raspberry Pi, when it starts)"
        ) from err
    except PermissionError as err:
        raise DisplayError(f"{device} may not be used: is this user in group video?") from err
    except OSError as err:
        raise DisplayError(f"{device} cannot be drawn on: {err.strerror}") from err
