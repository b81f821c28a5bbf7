"""Pictures from files and messages, hostile until they are checked, and how they fit."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from ...errors import StorageError

FORMATS = ("PNG", "WEBP", "JPEG")
MAX_PIXELS = 8192 * 8192
MAX_PREVIEW_PIXELS = 1024 * 1024
LANCZOS = Image.Resampling.LANCZOS


def read_picture(path: Path, at_least: tuple[int, int] | None = None) -> Image.Image:
    """A picture of the gallery, RGB.

    Args:
        at_least: a JPEG may be read smaller than it is, but no smaller than that.
    Raises:
        StorageError: there is none, or what is there cannot be shown.
    """
    try:
        with path.open("rb") as file:
            return _decoded(file, str(path), FORMATS, MAX_PIXELS, at_least)
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err.strerror or err}") from err


def read_preview(data: bytes) -> Image.Image:
    """A JPEG that a message brought, RGB. Raises StorageError."""
    return _decoded(io.BytesIO(data), "a preview", ("JPEG",), MAX_PREVIEW_PIXELS, None)


def _decoded(
    file: object, name: str, formats: tuple[str, ...], most: int, at_least: tuple[int, int] | None
) -> Image.Image:
    try:
        with warnings.catch_warnings(), Image.open(file, formats=formats) as image:  # type: ignore[arg-type]
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > most:
                raise StorageError(f"{name}: {image.width}x{image.height} pixels are more than we would show")
            if at_least:
                image.draft("RGB", at_least)
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as err:
        if isinstance(err, StorageError):
            raise
        raise StorageError(f"{name}: is no picture that can be read: {err}") from err


def contained(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture, as large as fits."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((min(width, size[0]), min(height, size[1])), LANCZOS)


def covering(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture, filling `size`."""
    scale = max(size[0] / image.width, size[1] / image.height)
    width, height = size[0] / scale, size[1] / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(size, LANCZOS, box=(left, top, left + width, top + height))
