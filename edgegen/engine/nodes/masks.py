"""Painting over a part: masks, 1 where to paint, on pictures and latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...diffusion.masking import grow_mask
from ...diffusion.resample import resample
from ...workflow.declare import (
    BOOLEAN,
    COMBO,
    CONDITIONING,
    IMAGE,
    INT,
    LATENT,
    MASK,
    VAE,
    Input,
)
from ..conditioning import Conditioning
from ..stages import Stages
from ..workbench import Workbench
from .base import Latents, Node, refuse
from .latents import encoded, middle

COLOURS = ("red", "green", "blue")


class SetLatentNoiseMask(Node):
    """Samplers paint the latents where the mask is 1, and keep the rest."""

    INPUTS = {"samples": Input(LATENT), "mask": Input(MASK)}
    OUTPUTS = (LATENT,)

    def run(self, bench: Workbench, samples: Latents, mask: np.ndarray) -> tuple[Any, ...]:
        return (replace(samples, mask=mask[:, None]),)


class VAEEncodeForInpaint(Node):
    """A picture to latents, grey where the mask is 1; that is painted, grown by some pixels."""

    INPUTS = {
        "pixels": Input(IMAGE),
        "vae": Input(VAE),
        "mask": Input(MASK),
        "grow_mask_by": Input(INT, 6, 0, 64),
    }
    OUTPUTS = (LATENT,)

    def run(
        self, bench: Workbench, pixels: np.ndarray, vae: Stages, mask: np.ndarray, grow_mask_by: int
    ) -> tuple[Any, ...]:
        side = vae.pack.manifest.latent_downscale
        height, width = pixels.shape[2:]
        scaled = np.rint(middle(resample(mask[:, None], width, height, "bilinear"), side))
        if len(scaled) not in (1, len(pixels)):
            raise refuse("mask", None, f"{len(scaled)} masks do not fit {len(pixels)} pictures")
        latents = encoded(vae, middle(pixels, side) * (1 - scaled))
        return (replace(latents, mask=grow_mask(scaled, grow_mask_by)),)


class ImageToMask(Node):
    """One colour of a picture as a mask; pictures carry no transparency here, LoadImage's mask does."""

    INPUTS = {"image": Input(IMAGE), "channel": Input(COMBO, choices=COLOURS)}
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, image: np.ndarray, channel: str) -> tuple[Any, ...]:
        return ((image[:, COLOURS.index(channel)] + 1) / 2,)


class ImageColorToMask(Node):
    """1 where a picture has one colour, 0xRRGGBB, in 8 bits."""

    INPUTS = {"image": Input(IMAGE), "color": Input(INT, 0, 0, 0xFFFFFF)}
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, image: np.ndarray, color: int) -> tuple[Any, ...]:
        levels = np.rint(np.clip(image * np.float32(127.5) + np.float32(127.5), 0, 255)).astype(np.int64)
        shown = (levels[:, 0] << 16) + (levels[:, 1] << 8) + levels[:, 2]
        return ((shown == color).astype(np.float32),)


class MaskToImage(Node):
    """A mask as a picture, white where it is 1."""

    INPUTS = {"mask": Input(MASK)}
    OUTPUTS = (IMAGE,)

    def run(self, bench: Workbench, mask: np.ndarray) -> tuple[Any, ...]:
        return (np.repeat(mask[:, None] * 2 - 1, 3, axis=1),)


class InvertMask(Node):
    INPUTS = {"mask": Input(MASK)}
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, mask: np.ndarray) -> tuple[Any, ...]:
        return (1 - mask,)


class InpaintModelConditioning(Node):
    """A picture to latents that are painted where the mask is 1. Models made for painting over are told more
    by the words here; there are no packs of them, and others do not listen to it."""

    INPUTS = {
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "vae": Input(VAE),
        "pixels": Input(IMAGE),
        "mask": Input(MASK),
        "noise_mask": Input(BOOLEAN, True, optional=True),
    }
    OUTPUTS = (CONDITIONING, CONDITIONING, LATENT)

    def run(
        self,
        bench: Workbench,
        positive: Conditioning,
        negative: Conditioning,
        vae: Stages,
        pixels: np.ndarray,
        mask: np.ndarray,
        noise_mask: bool = True,
    ) -> tuple[Any, ...]:
        side = vae.pack.manifest.latent_downscale
        latents = encoded(vae, middle(pixels, side))
        if noise_mask:
            scaled = resample(mask[:, None], pixels.shape[3], pixels.shape[2], "bilinear")
            latents = replace(latents, mask=middle(scaled, side))
        return positive, negative, latents
