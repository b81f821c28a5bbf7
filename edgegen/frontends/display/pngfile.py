"""A screen that is a PNG file, for another program to show: a web page, a picture viewer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .pixelformat import DisplayError

PNG_LEVEL = 1  # it is read soon and written often


class PngFile:
    """Keeps the whole screen and replaces the file with each change: a reader never sees half of it.

    It is not made to last: nothing is synced.

    Args:
        size: width and height in pixels.
    Raises (every method):
        DisplayError: it cannot be written.
    """

    rest_s = 0.5  # every change writes the whole file

    def __init__(self, path: Path, size: tuple[int, int]):
        self.path = path
        self.size = size
        self._screen = Image.new("RGB", size)

    def show(self, pieces: Sequence[tuple[Image.Image, int, int]]) -> None:
        """RGB pictures, each with the pixel of its upper left corner."""
        for image, left, top in pieces:
            self._screen.paste(image, (left, top))
        self._write()

    def dark(self, is_dark: bool) -> None:
        """Black; light comes with the next picture."""
        if is_dark:
            self.show([(Image.new("RGB", self.size), 0, 0)])

    def __str__(self) -> str:
        return f"{self.path}, {self.size[0]}x{self.size[1]}"

    def close(self) -> None:
        """The last picture stays. Safe to call twice."""

    def _write(self) -> None:
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._screen.save(part, "PNG", compress_level=PNG_LEVEL)
            part.replace(self.path)
        except OSError as err:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise DisplayError(f"{self.path} cannot be written: {err.strerror or err}") from err
