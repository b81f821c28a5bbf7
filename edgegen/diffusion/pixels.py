"""Between the autoencoder's numbers and pixels."""

from __future__ import annotations

import numpy as np


def to_uint8(sample: np.ndarray) -> np.ndarray:
    """(1, 3, h, w) or (3, h, w) float, -1 black to 1 white -> (h, w, 3) uint8, rounded as diffusers does;
    what lies beyond is clipped.

    Raises ValueError for another shape.
    """
    return np.rint(_levels(sample)).astype(np.uint8)


def to_uint8_cut(sample: np.ndarray) -> np.ndarray:
    """The same with what is over a level cut off, as ComfyUI keeps its pictures: half a level darker. 8-bit
    pictures come back from `to_model_input` as they were."""
    return _levels(sample).astype(np.uint8)


def _levels(sample: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32, 0 to 255."""
    if sample.ndim == 4 and sample.shape[0] == 1:
        sample = sample[0]
    if sample.ndim != 3 or sample.shape[0] != 3:
        raise ValueError(f"a picture must have shape (1, 3, h, w) or (3, h, w), not {sample.shape}")
    scaled = np.clip(sample.astype(np.float32) * 127.5 + 127.5, 0, 255)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def to_model_input(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (1, 3, h, w) float32 in [-1, 1]. Raises ValueError for another shape or type."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (h, w, 3) uint8, not {pixels.shape} {pixels.dtype}")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
