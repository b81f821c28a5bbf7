"""Pictures made larger by a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...workflow.declare import COMBO, IMAGE, UPSCALE_MODEL, Input
from ..upscaling import Upscaler
from ..workbench import Workbench
from .base import ComponentLoader, Node, refuse
from .images import MAX_PIXELS


class UpscaleModelLoader(ComponentLoader):
    """A file's name stands for a pack of kind `upscaler`; nothing is loaded yet."""

    KIND, NAME = "upscaler", "model_name"
    INPUTS = {"model_name": Input(COMBO)}
    OUTPUTS = (UPSCALE_MODEL,)

    def run(self, bench: Workbench, model_name: str) -> tuple[Any, ...]:
        return (bench.upscaler(bench.component_for(self.KIND, model_name)),)


class ImageUpscaleWithModel(Node):
    """As many times larger as the model makes them, also beyond `limits.side`: later nodes may shrink it."""

    INPUTS = {"upscale_model": Input(UPSCALE_MODEL), "image": Input(IMAGE)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, upscale_model: Upscaler, image: np.ndarray) -> tuple[Any, ...]:
        height, width = (side * upscale_model.scale for side in image.shape[2:])
        if height * width > MAX_PIXELS:
            message = f"would become {width}x{height} pixels; at most {MAX_PIXELS} are allowed"
            raise refuse("image", f"{image.shape[3]}x{image.shape[2]}", message)
        rows = [upscale_model.enlarge(row[None] / 2 + np.float32(0.5)) for row in image]
        return (np.concatenate(rows) * 2 - 1,)
