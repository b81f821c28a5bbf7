"""Latents: made, moved to other sizes, mixed, decoded and encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...diffusion.resample import METHODS, crop_to_shape, resample
from ...errors import EngineError, PackError
from ...workflow.bounds import bound_problems
from ...workflow.declare import COMBO, FLOAT, IMAGE, INT, LATENT, MAX_RESOLUTION, VAE, Input
from ..stages import Stages
from ..workbench import Workbench
from .base import Latents, Node, refuse

METHOD = Input(COMBO, choices=tuple(METHODS))
CROP = Input(COMBO, choices=("disabled", "center"))
SMALLEST_SIDE = 64


class EmptyLatentImage(Node):
    """Where a picture from nothing starts."""

    INPUTS = {
        "width": Input(INT, 512, 16, MAX_RESOLUTION),
        "height": Input(INT, 512, 16, MAX_RESOLUTION),
        "batch_size": Input(INT, 1, 1, 4096),
    }
    OUTPUTS = (LATENT,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(self, bench: Workbench, width: int, height: int, batch_size: int) -> tuple[Any, ...]:
        return (Latents(np.zeros((batch_size, 4, height // 8, width // 8), np.float32)),)


class LatentUpscale(Node):
    """To a size in pixels; of one side 0 the other keeps the proportions, of both nothing changes."""

    INPUTS = {
        "samples": Input(LATENT),
        "upscale_method": METHOD,
        "width": Input(INT, 512, 0, MAX_RESOLUTION),
        "height": Input(INT, 512, 0, MAX_RESOLUTION),
        "crop": CROP,
    }
    OUTPUTS = (LATENT,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(
        self, bench: Workbench, samples: Latents, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Any, ...]:
        if width == 0 and height == 0:
            return (samples,)
        old_width, old_height = samples.size
        width, height = (
            width or round(old_width * height / old_height),
            height or round(old_height * width / old_width),
        )
        side = samples.downscale
        new = max(SMALLEST_SIDE, width) // side, max(SMALLEST_SIDE, height) // side
        return (resized(bench, samples, new, upscale_method, crop == "center"),)


class LatentUpscaleBy(Node):
    """By a factor."""

    INPUTS = {
        "samples": Input(LATENT),
        "upscale_method": METHOD,
        "scale_by": Input(FLOAT, 1.5, 0.01, 8.0),
    }
    OUTPUTS = (LATENT,)

    def run(
        self, bench: Workbench, samples: Latents, upscale_method: str, scale_by: float
    ) -> tuple[Any, ...]:
        height, width = (round(side * scale_by) for side in samples.samples.shape[2:])
        return (resized(bench, samples, (width, height), upscale_method),)


class LatentAdd(Node):
    INPUTS = {"samples1": Input(LATENT), "samples2": Input(LATENT)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples1: Latents, samples2: Latents) -> tuple[Any, ...]:
        both = samples1.samples + like(samples2, samples1, "bilinear")
        return (_mixed(samples1, samples2, both),)


class LatentSubtract(Node):
    INPUTS = {"samples1": Input(LATENT), "samples2": Input(LATENT)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples1: Latents, samples2: Latents) -> tuple[Any, ...]:
        rest = samples1.samples - like(samples2, samples1, "bilinear")
        return (_mixed(samples1, samples2, rest),)


class LatentBlend(Node):
    INPUTS = {
        "samples1": Input(LATENT),
        "samples2": Input(LATENT),
        "blend_factor": Input(FLOAT, 0.5, 0.0, 1.0),
    }
    OUTPUTS = (LATENT,)

    def run(
        self, bench: Workbench, samples1: Latents, samples2: Latents, blend_factor: float
    ) -> tuple[Any, ...]:
        part = np.float32(blend_factor)
        mixed = samples1.samples * part + like(samples2, samples1, "bicubic") * (1 - part)
        return (_mixed(samples1, samples2, mixed),)


class LatentMultiply(Node):
    INPUTS = {"samples": Input(LATENT), "multiplier": Input(FLOAT, 1.0, -10.0, 10.0)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, multiplier: float) -> tuple[Any, ...]:
        return (replace(samples, samples=samples.samples * np.float32(multiplier)),)


class VAEDecode(Node):
    """Latents to a picture."""

    INPUTS = {"samples": Input(LATENT), "vae": Input(VAE)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, samples: Latents, vae: Stages) -> tuple[Any, ...]:
        return (_decoded(vae, samples, vae.decode),)


class VAEDecodeTiled(Node):
    """The same in tiles: less memory, a picture a little different. The time inputs are for videos."""

    INPUTS = {
        "samples": Input(LATENT),
        "vae": Input(VAE),
        "tile_size": Input(INT, 512, 64, 4096),
        "overlap": Input(INT, 64, 0, 4096, optional=True),
        "temporal_size": Input(INT, 64, 8, 4096, optional=True),
        "temporal_overlap": Input(INT, 8, 4, 4096, optional=True),
    }
    OUTPUTS = (IMAGE,)

    def run(
        self,
        bench: Workbench,
        samples: Latents,
        vae: Stages,
        tile_size: int,
        overlap: int = 64,
        **_time: int,
    ) -> tuple[Any, ...]:
        side = vae.pack.manifest.latent_downscale
        shared = min(overlap, tile_size // 4) // side
        return (_decoded(vae, samples, lambda latents: vae.decode_tiled(latents, tile_size // side, shared)),)


class VAEEncode(Node):
    """A picture to latents; what is over a multiple of the pack's downscale is cut off at the edges."""

    INPUTS = {"pixels": Input(IMAGE), "vae": Input(VAE)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, pixels: np.ndarray, vae: Stages) -> tuple[Any, ...]:
        return (encoded(vae, middle(pixels, vae.pack.manifest.latent_downscale)),)


def _decoded(vae: Stages, samples: Latents, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(b, 3, h, w), picture by picture. Raises BadRequest: these are no latents of that autoencoder."""
    manifest = vae.pack.manifest
    shape = manifest.latent_channels, manifest.latent_downscale
    if (samples.samples.shape[1], samples.downscale) != shape:
        raise refuse("samples", None, f"these latents come from another pack than {manifest.name}")
    latents = samples.scaled_for(manifest.latent_scale)
    image = np.concatenate([decode(latents[k : k + 1]) for k in range(len(latents))])
    if image.ndim != 4 or image.shape[1] != 3:
        raise EngineError(f"graph vae_decoder gave {image.shape}, expected pictures (1, 3, h, w)")
    return np.asarray(np.clip(image, -1, 1))


def middle(samples: np.ndarray, side: int) -> np.ndarray:
    """(b, c, h, w) cut to multiples of `side`, as much at one edge as at the other."""
    height, width = (length // side * side for length in samples.shape[2:])
    y, x = (length % side // 2 for length in samples.shape[2:])
    return samples[:, :, y : y + height, x : x + width]


def encoded(vae: Stages, pixels: np.ndarray) -> Latents:
    """(b, 3, h, w) pictures, encoded one by one. Raises BadRequest: the pack cannot."""
    manifest = vae.pack.manifest
    try:
        latents = [vae.encode_picture(pixels[k : k + 1]) for k in range(len(pixels))]
    except PackError as err:
        raise refuse("vae", vae.pack.name, f"it cannot encode pictures: {err}") from err
    return Latents(np.concatenate(latents), manifest.latent_downscale, manifest.latent_scale)


def resized(
    bench: Workbench, latents: Latents, size: tuple[int, int], method: str, to_shape: bool = False
) -> Latents:
    """Latents of another width and height, in their own units. Raises BadRequest beyond the bounds."""
    width, height = size
    side = latents.downscale
    if problem := bench.size_problem(width * side, height * side):
        raise refuse("samples", None, problem)
    samples = crop_to_shape(latents.samples, width, height) if to_shape else latents.samples
    return replace(latents, samples=resample(samples, width, height, method))


def _mixed(one: Latents, other: Latents, samples: np.ndarray) -> Latents:
    """The first with other samples; an empty one is of the second's autoencoder."""
    return replace(one, samples=samples, scale=other.scale if one.scale is None else one.scale)


def like(latents: Latents, other: Latents, method: str, each: bool = True) -> np.ndarray:
    """Their samples in the other's size and scale.

    Args:
        each: one for each of the other's batch; they go around.
    Raises BadRequest: they are of another kind of autoencoder.
    """
    if latents.samples.shape[1] != other.samples.shape[1] or latents.downscale != other.downscale:
        raise refuse("samples2", None, "these latents come from another pack than samples1")
    height, width = other.samples.shape[2:]
    samples = latents.samples if other.scale is None else latents.scaled_for(other.scale)
    if samples.shape[2:] != (height, width):
        samples = resample(crop_to_shape(samples, width, height), width, height, method)
    return samples[np.arange(len(other.samples)) % len(samples)] if each else samples
