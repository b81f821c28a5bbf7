"""Pictures filtered. Source: ComfyUI's comfy_extras (nodes_post_processing.py, nodes_canny.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...diffusion.edges import canny
from ...workflow.declare import FLOAT, IMAGE, INT, Input
from ..workbench import Workbench
from .base import Node, refuse

SMALLEST_SIDE = 3


class ImageBlur(Node):
    """A Gaussian whose sigma counts in radii; the picture is mirrored at its edges."""

    INPUTS = {
        "image": Input(IMAGE),
        "blur_radius": Input(INT, 1, 1, 31),
        "sigma": Input(FLOAT, 1.0, 0.1, 10.0),
    }
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image: np.ndarray, blur_radius: int, sigma: float) -> tuple[Any, ...]:
        return (_blurred(image, "blur_radius", blur_radius, sigma),)


class ImageSharpen(Node):
    """Away from the blurred picture, ten times `alpha` as far."""

    INPUTS = {
        "image": Input(IMAGE),
        "sharpen_radius": Input(INT, 1, 1, 31),
        "sigma": Input(FLOAT, 1.0, 0.1, 10.0),
        "alpha": Input(FLOAT, 1.0, 0.0, 5.0),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self, bench: Workbench, image: np.ndarray, sharpen_radius: int, sigma: float, alpha: float
    ) -> tuple[Any, ...]:
        away = np.float32(10 * alpha) * (image - _blurred(image, "sharpen_radius", sharpen_radius, sigma))
        return (np.clip(image + away, -1, 1),)


class Canny(Node):
    """Edges, white on black."""

    INPUTS = {
        "image": Input(IMAGE),
        "low_threshold": Input(FLOAT, 0.4, 0.01, 0.99),
        "high_threshold": Input(FLOAT, 0.8, 0.01, 0.99),
    }
    OUTPUTS = (IMAGE,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        low, high = values.get("low_threshold", 0.0), values.get("high_threshold", 1.0)
        if low > high:
            yield "low_threshold", f"{low:g} is above high_threshold ({high:g}); it must not be"

    def run(
        self, bench: Workbench, image: np.ndarray, low_threshold: float, high_threshold: float
    ) -> tuple[Any, ...]:
        if min(image.shape[2:]) < SMALLEST_SIDE:
            size = f"{image.shape[3]}x{image.shape[2]}"
            raise refuse("image", size, f"a picture of {size} pixels is too small: {SMALLEST_SIDE} a side")
        shown = image / 2 + np.float32(0.5)
        edges = np.stack([canny(one, low_threshold, high_threshold) for one in shown])
        return (np.repeat(edges[:, None].astype(np.float32) * 2 - 1, 3, axis=1),)


def _blurred(image: np.ndarray, name: str, radius: int, sigma: float) -> np.ndarray:
    """(b, 3, h, w) under a Gaussian whose sigma counts in radii. Raises BadRequest: smaller than that."""
    if min(image.shape[2:]) <= radius:
        size = f"{image.shape[3]}x{image.shape[2]}"
        raise refuse(name, radius, f"the picture of {size} pixels is smaller")
    weights = np.exp(-(np.linspace(-1, 1, 2 * radius + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (2, 3):
        widths = [(radius, radius) if k == axis else (0, 0) for k in range(4)]
        padded = np.pad(image, widths, "reflect")
        image = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis) @ weights
    return image
