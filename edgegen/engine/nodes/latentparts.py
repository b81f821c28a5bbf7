"""Latents cut, turned and laid on one another, in pixels of the picture. Source: ComfyUI's nodes.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...workflow.declare import COMBO, INT, LATENT, MAX_RESOLUTION, Input
from ..workbench import Workbench
from .base import Latents, Node, refuse
from .latents import SMALLEST_SIDE

PLACE = Input(INT, 0, 0, MAX_RESOLUTION)
CROPPED_SIDE = Input(INT, 512, SMALLEST_SIDE, MAX_RESOLUTION)
FLIPS = {"x-axis: vertically": 2, "y-axis: horizontally": 3}
TURNS = ("none", "90 degrees", "180 degrees", "270 degrees")


class LatentFlip(Node):
    INPUTS = {"samples": Input(LATENT), "flip_method": Input(COMBO, choices=tuple(FLIPS))}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, flip_method: str) -> tuple[Any, ...]:
        return (replace(samples, samples=np.flip(samples.samples, FLIPS[flip_method]).copy()),)


class LatentRotate(Node):
    """Clockwise."""

    INPUTS = {"samples": Input(LATENT), "rotation": Input(COMBO, choices=TURNS)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, rotation: str) -> tuple[Any, ...]:
        turned = np.rot90(samples.samples, TURNS.index(rotation), (3, 2))
        return (replace(samples, samples=turned.copy()),)


class LatentCrop(Node):
    """A rectangle; it begins inside, and ends where the latents do."""

    INPUTS = {
        "samples": Input(LATENT),
        "width": CROPPED_SIDE,
        "height": CROPPED_SIDE,
        "x": PLACE,
        "y": PLACE,
    }
    OUTPUTS = (LATENT,)

    def run(
        self, bench: Workbench, samples: Latents, width: int, height: int, x: int, y: int
    ) -> tuple[Any, ...]:
        side = samples.downscale
        rows, columns = (
            part_of(whole, start // side, length // side, SMALLEST_SIDE // side)
            for whole, start, length in zip(samples.samples.shape[2:], (y, x), (height, width), strict=True)
        )
        return (replace(samples, samples=samples.samples[:, :, rows, columns]),)


def part_of(whole: int, start: int, length: int, least: int) -> slice:
    """Of a side: at least so much is left behind its start, if there is as much."""
    start = max(min(start, whole - least), 0)
    return slice(start, min(start + length, whole))


class LatentComposite(Node):
    """The second on the first at a place, fading in at edges that are not the first's own."""

    INPUTS = {
        "samples_to": Input(LATENT),
        "samples_from": Input(LATENT),
        "x": PLACE,
        "y": PLACE,
        "feather": PLACE,
    }
    OUTPUTS = (LATENT,)

    def run(
        self, bench: Workbench, samples_to: Latents, samples_from: Latents, x: int, y: int, feather: int
    ) -> tuple[Any, ...]:
        base, side = samples_to.samples, samples_to.downscale
        if samples_from.samples.shape[1] != base.shape[1] or samples_from.downscale != side:
            raise refuse("samples_from", None, "these latents come from another pack than samples_to")
        if len(samples_from.samples) not in (1, len(base)):
            count = f"{len(samples_from.samples)} latents do not fit {len(base)}"
            raise refuse("samples_from", len(samples_from.samples), count)
        scale = samples_from.scale if samples_to.scale is None else samples_to.scale
        laid = samples_from.samples if scale is None else samples_from.scaled_for(scale)
        x, y, feather = x // side, y // side, feather // side
        laid = laid[:, :, : max(base.shape[2] - y, 0), : max(base.shape[3] - x, 0)]
        rows, columns = slice(y, y + laid.shape[2]), slice(x, x + laid.shape[3])
        height, width = samples_from.samples.shape[2:]
        across = _fading(laid.shape[3], feather, x != 0, x + width < base.shape[3])
        down = _fading(laid.shape[2], feather, y != 0, y + height < base.shape[2])
        weight, mixed = down[:, None] * across, base.copy()
        mixed[:, :, rows, columns] = laid * weight + base[:, :, rows, columns] * (1 - weight)
        return (replace(samples_to, samples=mixed, scale=scale),)


def _fading(count: int, feather: int, at_start: bool, at_end: bool) -> np.ndarray:
    """(count,) float32: 1, and less over `feather` latents at those ends."""
    weight = np.ones(count, np.float32)
    steps = np.arange(1, feather + 1, dtype=np.float32)[:count] / np.float32(max(feather, 1))
    if at_start:
        weight[: len(steps)] *= steps
    if at_end:
        weight[count - len(steps) :] *= steps[::-1]
    return weight
