"""Pictures: read from the input folder, moved to other sizes, kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ...diffusion.pixels import to_model_input, to_uint8_cut
from ...diffusion.resample import METHODS, crop_to_shape, resample
from ...errors import BadRequest
from ...workflow.bounds import bound_problems
from ...workflow.declare import COMBO, FLOAT, IMAGE, INT, MASK, MAX_RESOLUTION, STRING, Input
from ..workbench import Workbench
from .base import Node, Shown, refuse
from .latents import CROP

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 4096 * 4096
NO_MASK_SIDE = 64
_ORIENTATION = 0x0112
METHOD = Input(COMBO, choices=(*METHODS, "lanczos"))
PREFIX_MAX_CHARS = 200


class _PictureFile(Node):
    """Reads a picture of the input folder."""

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            if "image" in values:
                _opened(bench.input_file(values["image"])).close()
        except BadRequest as err:
            yield "image", str(err)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        with bench.input_file(values["image"]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def decoded(self, bench: Workbench, image: str) -> Image.Image:
        """The picture, turned as its camera was. Raises BadRequest naming the input."""
        try:
            with _opened(bench.input_file(image)) as opened:
                turned = ImageOps.exif_transpose(opened)
                turned.load()
        except BadRequest as err:
            raise refuse("image", image, str(err)) from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
            raise refuse("image", image, f"cannot be decoded: {str(err)[:100]}") from None
        return turned


class LoadImage(_PictureFile):
    """A picture, and where it is transparent."""

    INPUTS = {"image": Input(COMBO)}
    OUTPUTS = (IMAGE, MASK)

    def run(self, bench: Workbench, image: str) -> tuple[Any, ...]:
        picture = self.decoded(bench, image)
        return to_model_input(np.asarray(picture.convert("RGB"))), _mask(picture)


class LoadImageMask(_PictureFile):
    """One channel of a picture as a mask; of alpha, where it is transparent."""

    INPUTS = {"image": Input(COMBO), "channel": Input(COMBO, choices=("alpha", "red", "green", "blue"))}
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, image: str, channel: str) -> tuple[Any, ...]:
        band = self.decoded(bench, image).convert("RGBA").getchannel(channel[0].upper())
        mask = np.asarray(band, np.float32)[None] / np.float32(255)
        return (1 - mask if channel == "alpha" else mask,)


class ImageScale(Node):
    """To a size in pixels; of one side 0 the other keeps the proportions, of both nothing changes."""

    INPUTS = {
        "image": Input(IMAGE),
        "upscale_method": METHOD,
        "width": Input(INT, 512, 0, MAX_RESOLUTION),
        "height": Input(INT, 512, 0, MAX_RESOLUTION),
        "crop": CROP,
    }
    OUTPUTS = (IMAGE,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(
        self, bench: Workbench, image: np.ndarray, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Any, ...]:
        if width == 0 and height == 0:
            return (image,)
        old_height, old_width = image.shape[2:]
        new_width = width or max(1, round(old_width * height / old_height))
        new_height = height or max(1, round(old_height * width / old_width))
        cut = crop_to_shape(image, new_width, new_height) if crop == "center" else image
        return (resized(bench, cut, new_width, new_height, upscale_method),)


class ImageScaleBy(Node):
    """By a factor."""

    INPUTS = {
        "image": Input(IMAGE),
        "upscale_method": METHOD,
        "scale_by": Input(FLOAT, 1.0, 0.01, 8.0),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self, bench: Workbench, image: np.ndarray, upscale_method: str, scale_by: float
    ) -> tuple[Any, ...]:
        height, width = (round(side * scale_by) for side in image.shape[2:])
        return (resized(bench, image, width, height, upscale_method),)


class ImageInvert(Node):
    INPUTS = {"image": Input(IMAGE)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image: np.ndarray) -> tuple[Any, ...]:
        return (-image,)


class SaveImage(Node):
    """Shows pictures, to be kept in files named after the prefix."""

    INPUTS = {"images": Input(IMAGE), "filename_prefix": Input(STRING, "ComfyUI")}
    IS_OUTPUT = True

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        prefix = values.get("filename_prefix", "")
        if ".." in prefix.replace("\\", "/").split("/") or prefix.startswith(("/", "\\", "~")):
            yield "filename_prefix", f"{prefix[:80]!r} leads out of the output folder"
        elif len(prefix) > PREFIX_MAX_CHARS or not prefix.isprintable():
            message = f"must be printable and at most {PREFIX_MAX_CHARS} characters long"
            yield "filename_prefix", message

    def run(self, bench: Workbench, images: np.ndarray, filename_prefix: str) -> tuple[Any, ...]:
        return (Shown([to_uint8_cut(image) for image in images], filename_prefix),)


class PreviewImage(Node):
    """Shows pictures, not to be kept."""

    INPUTS = {"images": Input(IMAGE)}
    IS_OUTPUT = True

    def run(self, bench: Workbench, images: np.ndarray) -> tuple[Any, ...]:
        return (Shown([to_uint8_cut(image) for image in images], None),)


def _opened(path: Path) -> Image.Image:
    """The file, its header read and its size checked; no pixel is decoded yet. Raises BadRequest."""
    known = "it must be a PNG, JPEG or WebP"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadRequest(f"has more than {MAX_FILE_BYTES >> 20} MB")
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as err:
        raise BadRequest(f"is too large: {err}") from None
    except (OSError, ValueError, SyntaxError):
        raise BadRequest(f"is no picture that can be read: {known}") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise BadRequest(f"has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are allowed")
    return image


def picture_size(bench: Workbench, name: str) -> tuple[int, int]:
    """Width and height of an input picture as LoadImage gives it. Raises BadRequest."""
    with _opened(bench.input_file(name)) as image:
        is_turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return image.size[::-1] if is_turned else image.size


def _mask(image: Image.Image) -> np.ndarray:
    """(1, h, w) float32, 1 where nothing is to be seen; without transparency (1, 64, 64) of 0."""
    if not image.has_transparency_data:
        return np.zeros((1, NO_MASK_SIDE, NO_MASK_SIDE), np.float32)
    alpha = np.asarray(image.convert("RGBA").getchannel("A"), np.float32)
    return 1 - alpha[None] / np.float32(255)


def resized(bench: Workbench, image: np.ndarray, width: int, height: int, method: str) -> np.ndarray:
    """(b, 3, h, w) in another size. Raises BadRequest beyond the bounds."""
    if problem := bench.size_problem(width, height):
        raise refuse("image", None, problem)
    if method == "lanczos":  # as ComfyUI does it: by Pillow, in 8 bits
        size, how = (width, height), Image.Resampling.LANCZOS
        rows = [np.asarray(Image.fromarray(to_uint8_cut(one)).resize(size, how)) for one in image]
        return np.concatenate([to_model_input(row) for row in rows])
    return resample(image, width, height, method)
