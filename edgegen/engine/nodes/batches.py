"""Batches: some of it, it again and again, two as one. Source: ComfyUI's nodes.py and comfy_extras.

Latents remember which places of a batch they had, so that a seed gives each the noise that it had there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...workflow.bounds import MAX_BATCH
from ...workflow.declare import IMAGE, INT, LATENT, Input
from ..workbench import Workbench
from .base import Latents, Node, refuse
from .latents import like


class _Repeating(Node):
    """All of them again and again."""

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if (amount := values.get("amount", 1)) > MAX_BATCH:
            yield "amount", f"{amount} is not allowed here: 1 to {MAX_BATCH}"


class RepeatLatentBatch(_Repeating):
    """All of them again and again."""

    INPUTS = {"samples": Input(LATENT), "amount": Input(INT, 1, 1, 64)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, amount: int) -> tuple[Any, ...]:
        batch = len(samples.samples)
        _check_count("amount", amount, batch * amount)
        mask, places = samples.mask, samples.places
        if mask is not None and len(mask) > 1:
            mask = np.tile(_for_each(mask, batch), (amount, 1, 1, 1))
        if places is not None:
            apart = max(places) - min(places) + 1
            places = tuple(place + k * apart for k in range(amount) for place in places)
        repeated = np.tile(samples.samples, (amount, 1, 1, 1))
        return (replace(samples, samples=repeated, mask=mask, places=places),)


class LatentFromBatch(Node):
    """Some of them, at least one: what lies beyond the end is the last."""

    INPUTS = {
        "samples": Input(LATENT),
        "batch_index": Input(INT, 0, 0, 63),
        "length": Input(INT, 1, 1, 64),
    }
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, batch_index: int, length: int) -> tuple[Any, ...]:
        batch = len(samples.samples)
        some, mask = picked(batch, batch_index, length), samples.mask
        if mask is not None and len(mask) > 1:
            mask = _for_each(mask, batch)[some]
        return (replace(samples, samples=samples.samples[some], mask=mask, places=_places(samples)[some]),)


class LatentBatch(Node):
    """Both, the second scaled to the first's size; with the first's mask."""

    INPUTS = {"samples1": Input(LATENT), "samples2": Input(LATENT)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples1: Latents, samples2: Latents) -> tuple[Any, ...]:
        _check_count("samples2", None, len(samples1.samples) + len(samples2.samples))
        second = like(samples2, samples1, "bilinear", each=False)
        scale = samples2.scale if samples1.scale is None else samples1.scale
        both = np.concatenate([samples1.samples, second])
        places = _places(samples1) + _places(samples2)
        return (replace(samples1, samples=both, scale=scale, places=places),)


class ImageFromBatch(Node):
    """Some of them, at least one: what lies beyond the end is the last."""

    INPUTS = {
        "image": Input(IMAGE),
        "batch_index": Input(INT, 0, 0, 4095),
        "length": Input(INT, 1, 1, 4096),
    }
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image: np.ndarray, batch_index: int, length: int) -> tuple[Any, ...]:
        return (image[picked(len(image), batch_index, length)],)


class RepeatImageBatch(_Repeating):
    """All of them again and again."""

    INPUTS = {"image": Input(IMAGE), "amount": Input(INT, 1, 1, 4096)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, image: np.ndarray, amount: int) -> tuple[Any, ...]:
        _check_count("amount", amount, len(image) * amount)
        return (np.tile(image, (amount, 1, 1, 1)),)


def picked(batch: int, first: int, length: int) -> slice:
    """Which of a batch: from `first` on as many as there are, at most `length`."""
    first = min(batch - 1, first)
    return slice(first, first + min(batch - first, length))


def _places(latents: Latents) -> tuple[int, ...]:
    return tuple(range(len(latents.samples))) if latents.places is None else latents.places


def _for_each(mask: np.ndarray, batch: int) -> np.ndarray:
    """As many masks as there are pictures; they go around."""
    return np.tile(mask, (math.ceil(batch / len(mask)), 1, 1, 1))[:batch]


def _check_count(name: str, value: Any, count: int) -> None:
    """Raises BadRequest for more pictures than a batch may have."""
    if count > MAX_BATCH:
        raise refuse(name, value, f"makes {count} pictures; at most {MAX_BATCH} are allowed")
