"""Painting over a part of a picture: everywhere else the denoiser is shown the picture as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .resample import resample


@dataclass(frozen=True)
class KeptPicture:
    """What a run leaves as it was: at every look the picture, with just the noise of that level.

    Attributes:
        picture: (b, c, h, w), the denoiser's latents of the picture.
        noise: the run's unit noise, of that shape; zeros where none was added.
        mask: (b, 1, h, w), 1 to paint, 0 to keep, anything between to mix.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, in sigmas.
    """

    picture: np.ndarray
    noise: np.ndarray
    mask: np.ndarray

    def shown(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """What the denoiser is shown for latents x = picture + sigma * noise."""
        return self._mixed(x, self.picture + sigma * self.noise)

    def seen(self, denoised: np.ndarray) -> np.ndarray:
        """What then counts as seen."""
        return self._mixed(denoised, self.picture)

    def _mixed(self, painted: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return painted * self.mask + kept * (1 - self.mask)


def fit_mask(mask: np.ndarray, batch: int, width: int, height: int) -> np.ndarray:
    """(n, 1, h, w) -> (batch, 1, height, width); n masks go around."""
    scaled = resample(mask, width, height, "bilinear")
    return scaled[np.arange(batch) % len(scaled)]


def grow_mask(mask: np.ndarray, pixels: int) -> np.ndarray:
    """(n, 1, h, w) of 0 and 1: 1 wherever a square of that side around a pixel meets a 1."""
    if pixels == 0:
        return mask
    before = -(-(pixels - 1) // 2)
    height, width = mask.shape[2:]
    padded = np.pad(mask, ((0, 0), (0, 0), (before, pixels), (before, pixels)))
    for axis in (2, 3):
        windows = np.lib.stride_tricks.sliding_window_view(padded, pixels, axis)
        padded = windows.max(axis=-1)
    return padded[:, :, :height, :width]
