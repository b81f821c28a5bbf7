"""A picture made small enough to send. Only the engine imports this: it needs Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..engine.metadata import PNG_LEVEL
from ..errors import StorageError

FORMATS = ("PNG", "WEBP", "JPEG")
MAX_PIXELS = 8192 * 8192
QUALITIES = (90, 80, 65, 50, 35)
MIN_SIDE = 16
WEBP_METHOD = 2  # a fourth of the time that Pillow's own 4 takes, for 3 % more bytes


def encode_for_publish(path: Path, format: str, max_bytes: int) -> bytes:
    """The picture in `format` (`webp`, `jpeg` or `png`), at most `max_bytes`.

    Lower quality is tried first (PNG has none), then half the size, again and again.

    Raises:
        StorageError: no picture of ours, or it does not fit even at a few pixels.
    """
    image = _open(path)
    while min(image.size) >= MIN_SIDE:
        for data in _encodings(image, format):
            if len(data) <= max_bytes:
                return data
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    raise StorageError(
        f"{path}: does not fit {max_bytes} bytes as {format}: raise mqtt.image_max_bytes, or the broker's"
    )


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > MAX_PIXELS:
                raise StorageError(f"{path}: {image.width}x{image.height} pixels are more than we would draw")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as err:
        if isinstance(err, StorageError):
            raise
        raise StorageError(f"{path}: is no picture that can be read: {err}") from err


def _encodings(image: Image.Image, format: str) -> Iterator[bytes]:
    """Smaller and smaller; PNG knows one only."""
    for quality in QUALITIES[: 1 if format == "png" else None]:
        options: dict[str, int] = {"compress_level": PNG_LEVEL} if format == "png" else {"quality": quality}
        if format == "webp":
            options["method"] = WEBP_METHOD
        buffer = io.BytesIO()
        image.save(buffer, format.upper(), **options)
        yield buffer.getvalue()
