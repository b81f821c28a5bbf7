"""Pictures put together: side by side in a batch, one on another, cut, padded.

Source of names, ranges and arithmetic: ComfyUI's nodes.py and comfy_extras (images, mask, post_processing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...diffusion.resample import crop_to_shape, resample
from ...workflow.bounds import MAX_BATCH, bound_problems
from ...workflow.declare import BOOLEAN, COMBO, FLOAT, IMAGE, INT, MASK, MAX_RESOLUTION, Input
from ..workbench import Workbench
from .base import Node, refuse
from .images import METHOD, resized

SIDE = Input(INT, 512, 1, MAX_RESOLUTION)
PLACE = Input(INT, 0, 0, MAX_RESOLUTION)
Picture = np.ndarray


class EmptyImage(Node):
    """One colour, 0xRRGGBB."""

    INPUTS = {
        "width": SIDE,
        "height": SIDE,
        "batch_size": Input(INT, 1, 1, 4096),
        "color": Input(INT, 0, 0, 0xFFFFFF),
    }
    OUTPUTS = (IMAGE,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(self, bench: Workbench, width: int, height: int, batch_size: int, color: int) -> tuple[Any, ...]:
        rgb = np.array([color >> 16, color >> 8 & 255, color & 255], np.float32) / np.float32(127.5) - 1
        return (np.broadcast_to(rgb[:, None, None], (batch_size, 3, height, width)).copy(),)


class GetImageSize(Node):
    """Width, height and how many there are."""

    INPUTS = {"image": Input(IMAGE)}
    OUTPUTS = (INT, INT, INT)

    def run(self, bench: Workbench, image: Picture) -> tuple[Any, ...]:
        batch, _, height, width = image.shape
        return width, height, batch


class ImageBatch(Node):
    """Both, the second scaled to the first's size, its middle where the proportions differ."""

    INPUTS = {"image1": Input(IMAGE), "image2": Input(IMAGE)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image1: Picture, image2: Picture) -> tuple[Any, ...]:
        if (count := len(image1) + len(image2)) > MAX_BATCH:
            raise refuse("image2", count, f"these are {count} pictures together; at most {MAX_BATCH}")
        return (np.concatenate([image1, _like(image2, image1, "bilinear")]),)


class ImageCrop(Node):
    """A rectangle, as much of it as lies inside."""

    INPUTS = {"image": Input(IMAGE), "width": SIDE, "height": SIDE, "x": PLACE, "y": PLACE}
    OUTPUTS = (IMAGE,)

    def run(
        self, bench: Workbench, image: Picture, width: int, height: int, x: int, y: int
    ) -> tuple[Any, ...]:
        y, x = min(y, image.shape[2] - 1), min(x, image.shape[3] - 1)
        return (image[:, :, y : y + height, x : x + width],)


class ImageScaleToTotalPixels(Node):
    """To as many pixels in all, in the same proportions."""

    INPUTS = {
        "image": Input(IMAGE),
        "upscale_method": METHOD,
        "megapixels": Input(FLOAT, 1.0, 0.01, 16.0),
        "resolution_steps": Input(INT, 1, 1, 256, optional=True),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self,
        bench: Workbench,
        image: Picture,
        upscale_method: str,
        megapixels: float,
        resolution_steps: int = 1,
    ) -> tuple[Any, ...]:
        height, width = image.shape[2:]
        size = total_pixels_size(width, height, megapixels, resolution_steps)
        return (resized(bench, image, *size, upscale_method),)


def total_pixels_size(width: int, height: int, megapixels: float, multiple: int) -> tuple[int, int]:
    """Width and height of the same proportions with so many times 1024 x 1024 pixels."""
    factor = math.sqrt(megapixels * 1024 * 1024 / (width * height))
    sides = (max(1, round(side * factor / multiple)) * multiple for side in (width, height))
    return next(sides), next(sides)


class ImagePadForOutpaint(Node):
    """Grey around it, and a mask of that: 1 outside, and fading into the picture along padded edges."""

    INPUTS = {
        "image": Input(IMAGE),
        **dict.fromkeys(("left", "top", "right", "bottom"), PLACE),
        "feathering": Input(INT, 40, 0, MAX_RESOLUTION),
    }
    OUTPUTS = (IMAGE, MASK)

    def run(
        self,
        bench: Workbench,
        image: Picture,
        left: int,
        top: int,
        right: int,
        bottom: int,
        feathering: int,
    ) -> tuple[Any, ...]:
        height, width = image.shape[2:]
        if problem := bench.size_problem(width + left + right, height + top + bottom):
            raise refuse("image", None, problem)
        around = ((top, bottom), (left, right))
        padded = np.pad(image, ((0, 0), (0, 0), *around))  # 0 is grey
        inner = _fading_in((height, width), around, feathering)
        return padded, np.pad(inner, around, constant_values=1)[None]


def _fading_in(
    shape: tuple[int, int], around: tuple[tuple[int, int], tuple[int, int]], feathering: int
) -> np.ndarray:
    """(h, w) float32: square of how near a padded edge is, 0 from `feathering` pixels on."""
    if feathering == 0 or 2 * feathering >= min(shape):
        return np.zeros(shape, np.float32)
    near = [np.full(shape, np.inf)]
    for axis, ends in enumerate(around):
        place = np.arange(shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        distances = (place, shape[axis] - place)
        near += [np.broadcast_to(far, shape) for far, pad in zip(distances, ends, strict=True) if pad]
    part = np.maximum(feathering - np.min(near, axis=0), 0) / feathering
    return np.asarray(part**2, np.float32)


class ImageCompositeMasked(Node):
    """One on another, where its mask is 1; what lies outside is cut off."""

    INPUTS = {
        "destination": Input(IMAGE),
        "source": Input(IMAGE),
        "x": PLACE,
        "y": PLACE,
        "resize_source": Input(BOOLEAN, False),
        "mask": Input(MASK, optional=True),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self,
        bench: Workbench,
        destination: Picture,
        source: Picture,
        x: int,
        y: int,
        resize_source: bool,
        mask: np.ndarray | None = None,
    ) -> tuple[Any, ...]:
        batch, _, height, width = destination.shape
        if resize_source:
            source = resample(source, width, height, "bilinear")
        source = _as_many(source, batch)
        opaque = np.ones((1, 1, 1, 1), np.float32)
        if mask is not None:
            opaque = resample(_as_many(mask, batch)[:, None], source.shape[3], source.shape[2], "bilinear")
        result, seen = destination.copy(), source[:, :, : max(height - y, 0), : max(width - x, 0)]
        rows, columns = slice(y, y + seen.shape[2]), slice(x, x + seen.shape[3])
        part = opaque if mask is None else opaque[:, :, : seen.shape[2], : seen.shape[3]]
        result[:, :, rows, columns] = part * seen + (1 - part) * destination[:, :, rows, columns]
        return (result,)


def _soft(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """W3C's soft light."""
    root = np.where(one <= 0.25, ((16 * one - 12) * one + 4) * one, np.sqrt(np.maximum(one, 0)))
    darker, lighter = one - (1 - 2 * two) * one * (1 - one), one + (2 * two - 1) * (root - one)
    return np.where(two <= 0.5, darker, lighter)


MODES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "normal": lambda _one, two: two,
    "multiply": lambda one, two: one * two,
    "screen": lambda one, two: 1 - (1 - one) * (1 - two),
    "overlay": lambda one, two: np.where(one <= 0.5, 2 * one * two, 1 - 2 * (1 - one) * (1 - two)),
    "soft_light": _soft,
    "difference": lambda one, two: one - two,
}


class ImageBlend(Node):
    """Two mixed, the second in a mode of layers."""

    INPUTS = {
        "image1": Input(IMAGE),
        "image2": Input(IMAGE),
        "blend_factor": Input(FLOAT, 0.5, 0.0, 1.0),
        "blend_mode": Input(COMBO, choices=tuple(MODES)),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self, bench: Workbench, image1: Picture, image2: Picture, blend_factor: float, blend_mode: str
    ) -> tuple[Any, ...]:
        if 1 != len(image1) != len(image2) != 1:
            raise refuse("image2", len(image2), f"{len(image2)} pictures do not fit {len(image1)}")
        one, two = (image / 2 + 0.5 for image in (image1, _like(image2, image1, "bicubic")))
        part = np.float32(blend_factor)
        mixed = one * (1 - part) + MODES[blend_mode](one, two) * part
        return (np.asarray(np.clip(mixed, 0, 1) * 2 - 1, np.float32),)


def _like(image: Picture, other: Picture, method: str) -> Picture:
    """In the other's size, the middle where the proportions differ."""
    height, width = other.shape[2:]
    if image.shape[2:] == (height, width):
        return image
    return resample(crop_to_shape(image, width, height), width, height, method)


def _as_many(rows: np.ndarray, count: int) -> np.ndarray:
    """The first so many, or all of them over and over."""
    return rows[np.arange(count) % len(rows)]
