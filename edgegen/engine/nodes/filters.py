"""Pictures filtered. Source: ComfyUI's comfy_extras/nodes_post_processing.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...workflow.declare import FLOAT, IMAGE, INT, Input
from ..workbench import Workbench
from .base import Node, refuse


class ImageBlur(Node):
    """A Gaussian whose sigma counts in radii; the picture is mirrored at its edges."""

    INPUTS = {
        "image": Input(IMAGE),
        "blur_radius": Input(INT, 1, 1, 31),
        "sigma": Input(FLOAT, 1.0, 0.1, 10.0),
    }
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image: np.ndarray, blur_radius: int, sigma: float) -> tuple[Any, ...]:
        if min(image.shape[2:]) <= blur_radius:
            size = f"{image.shape[3]}x{image.shape[2]}"
            raise refuse("blur_radius", blur_radius, f"the picture of {size} pixels is smaller")
        weights = np.exp(-(np.linspace(-1, 1, 2 * blur_radius + 1) ** 2) / (2 * sigma**2))
        weights = (weights / weights.sum()).astype(np.float32)
        edges = (blur_radius, blur_radius)
        for axis in (2, 3):
            widths = [edges if k == axis else (0, 0) for k in range(4)]
            windows = np.lib.stride_tricks.sliding_window_view(
                np.pad(image, widths, "reflect"), len(weights), axis
            )
            image = windows @ weights
        return (image,)
