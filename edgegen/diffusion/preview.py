"""A cheap look at latents: each channel's share of red, green and blue, one pixel a latent.

Where a pack does not say its own factors, those that others have published for its family are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RgbFactors:
    """Denoiser's latents @ factors + bias is a picture, -1 black to 1 white.

    Attributes:
        factors: (channels, 3). bias: (3,).
    """

    factors: Sequence[Sequence[float]]
    bias: Sequence[float] = (0.0, 0.0, 0.0)


# Keturn 2022, "Decoding latents to RGB without upscaling", discuss.huggingface.co/t/23204
SD1_FACTORS = RgbFactors(
    ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
)
# T. A. Vass 2023, "Explaining the SDXL latent space" (Hugging Face blog), there of 0 to 255
_SDXL_WEIGHTS = ((60, 60, 60), (-60, -5, 10), (25, 15, -5), (-70, -50, -35))
_SDXL_BIAS = (150, 140, 130)
SDXL_FACTORS = RgbFactors(
    tuple(tuple(weight / 127.5 for weight in row) for row in _SDXL_WEIGHTS),
    tuple(value / 127.5 - 1 for value in _SDXL_BIAS),
)
FAMILIES = {"sd1": SD1_FACTORS, "sd2": SD1_FACTORS, "lcm": SD1_FACTORS, "sdxl": SDXL_FACTORS}


def factors_for(family: str, channels: int, own: RgbFactors | None = None) -> RgbFactors | None:
    """A pack's own factors, else its family's if they fit its channels; None: it has no preview."""
    found = own or FAMILIES.get(family)
    return found if found and len(found.factors) == channels else None


def preview_pixels(denoised: np.ndarray, rgb: RgbFactors) -> np.ndarray:
    """(b, c, h, w) float32 latents as predicted -> (h, w, 3) uint8 of the first one. Never raises for NaN."""
    shares = np.asarray(rgb.factors, np.float32)
    picture = np.einsum("chw,cr->hwr", np.nan_to_num(denoised[0]), shares) + np.asarray(rgb.bias, np.float32)
    return ((np.clip(picture, -1, 1) + 1) * 127.5).round().astype(np.uint8)


def fit_factors(latents: Sequence[np.ndarray], pictures: Sequence[np.ndarray]) -> RgbFactors:
    """The factors and bias of least squared error.

    Args:
        latents: (1, c, h, w) as the denoiser has them. pictures: (1, 3, h * k, w * k), -1 to 1, of each.
    """
    rows = np.concatenate([one[0].reshape(one.shape[1], -1).T for one in latents])
    wanted = np.concatenate([_shrunk(p, one.shape[2:]) for p, one in zip(pictures, latents, strict=True)])
    table = np.concatenate([rows, np.ones((len(rows), 1))], axis=1, dtype=np.float64)
    found = np.linalg.lstsq(table, wanted, rcond=None)[0].round(4).tolist()
    return RgbFactors(found[:-1], found[-1])


def _shrunk(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h * w, 3): the mean colour of what each latent covers."""
    height, width = shape
    _, channels, tall, wide = picture.shape
    blocks = picture[0].reshape(channels, height, tall // height, width, wide // width)
    return np.asarray(blocks.mean(axis=(2, 4)).reshape(channels, -1).T)
