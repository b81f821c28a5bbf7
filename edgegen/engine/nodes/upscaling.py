"""Pictures made larger by a model."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...diffusion.sampler import SamplerState
from ...workflow.declare import COMBO, IMAGE, UPSCALE_MODEL, Input
from ..upscaling import Upscaler
from ..workbench import Workbench
from .base import ComponentLoader, Node, NodeWork, refuse
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

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        upscale_model: Upscaler = inputs["upscale_model"]
        image: np.ndarray = inputs["image"]
        height, width = (side * upscale_model.scale for side in image.shape[2:])
        if height * width > MAX_PIXELS:
            message = f"would become {width}x{height} pixels; at most {MAX_PIXELS} are allowed"
            raise refuse("image", f"{image.shape[3]}x{image.shape[2]}", message)
        rows = []
        for row in image:
            work = upscale_model.enlarge(row[None] / 2 + np.float32(0.5))
            rows.append((yield from _told(work)))
        return (np.concatenate(rows) * 2 - 1,)


@dataclass(frozen=True)
class TileStep:
    """A tile is done. Nothing of it can be shown or gone on from, unlike `diffusion.sampler.SamplerStep`."""

    index: int
    total: int
    denoised: None = None
    state: None = None


def _told(work: Generator[tuple[int, int], None, np.ndarray]) -> Generator[TileStep, None, np.ndarray]:
    try:
        while True:
            yield TileStep(*next(work))
    except StopIteration as done:
        whole: np.ndarray = done.value
        return whole
