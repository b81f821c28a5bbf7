"""Encodings that speak of a part of the picture: the denoiser looks at that part, the answers are blended.

As ComfyUI does it, so that its workflows make the same picture: strengths weigh, and an area fades in over
some latents at every edge that is not the picture's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..diffusion.conditions import size_ids
from ..diffusion.resample import resample
from .conditioning import Area, Conditioning, Encoding

FADE = 8  # latents
UNSEEN = 1e-37  # weight of a place that no encoding speaks of

Look = Callable[[np.ndarray, Encoding], np.ndarray]


def has_areas(conditioning: Conditioning) -> bool:
    """Whether plain averaging would not do."""
    return any(
        encoding.area is not None or encoding.mask is not None or encoding.strength != 1
        for encoding in conditioning
    )


def blended(look: Look, latents: np.ndarray, conditioning: Conditioning, downscale: int) -> np.ndarray:
    """The denoiser's answers, each for its own part of the picture, averaged by weight.

    Args:
        look: (latents of the part, encoding) -> answer of their shape.
        latents: (1, c, h, w) of the whole picture.
        downscale: pixels for one latent.
    """
    height, width = latents.shape[2:]
    sizes = size_ids(width * downscale, height * downscale)
    total, weights = np.zeros_like(latents), np.full((height, width), UNSEEN, np.float32)
    for encoding in conditioning:
        rows, columns = area_slices(encoding.area, (height, width), downscale)
        if encoding.mask is None:
            weight = fading_weight(rows, height)[:, None] * fading_weight(columns, width)
        else:  # as there: what has a mask does not fade besides
            weight = resample(encoding.mask[None], width, height, "bilinear")[0, 0, rows, columns]
        weight = weight * np.float32(encoding.strength)
        told = replace(encoding, time_ids=sizes) if encoding.time_ids is None else encoding
        part = np.ascontiguousarray(latents[:, :, rows, columns])
        total[:, :, rows, columns] += look(part, told) * weight
        weights[rows, columns] += weight
    return total / weights


def area_slices(area: Area | None, shape: tuple[int, int], downscale: int) -> tuple[slice, slice]:
    """Rows and columns of latents, cut at the picture's edges; empty for an area that lies outside."""
    if area is None:
        return slice(0, shape[0]), slice(0, shape[1])
    ends = (area.y, area.height, shape[0]), (area.x, area.width, shape[1])
    rows, columns = (
        slice(start // downscale, min(start // downscale + length // downscale, most))
        for start, length, most in ends
    )
    return rows, columns


def fading_weight(part: slice, whole: int) -> np.ndarray:
    """(n,) float32: 1, and less toward an end that is not the whole's."""
    count = part.stop - part.start
    weight = np.ones(count, np.float32)
    steps = min(FADE, count // 4)
    fade = np.arange(1, steps + 1, dtype=np.float32) / np.float32(max(steps, 1))
    if part.start > 0:
        weight[:steps] *= fade
    if part.stop < whole:
        weight[count - steps :] *= fade[::-1]
    return weight


def with_counterparts(one: Conditioning, other: Conditioning) -> Conditioning:
    """`one`, and for every area of `other` that it lacks, the narrowest of it that covers that area: so both
    sides of guidance look at the same parts."""
    found = list(one)
    for encoding in other:
        if (area := encoding.area) is None:
            continue
        covering = [mine for mine in found if mine.area is None or mine.area.covers(area)]
        if covering and (best := min(covering, key=_extent)).area != area:
            same = replace(best, area=area, strength=encoding.strength)
            found.append(replace(same, start=encoding.start, end=encoding.end))
    return found


def _extent(encoding: Encoding) -> float:
    return float("inf") if encoding.area is None else encoding.area.width * encoding.area.height
