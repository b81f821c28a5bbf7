"""Pictures as CLIP's image encoders look at them: small, square and normalized.

Source: Radford et al. 2021, arXiv:2103.00020; transformers' CLIPImageProcessor. Resampling is Pillow's, which
this floor does not import: it is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
CROPS = ("center", "none")
Resize = Callable[[np.ndarray, int, int], np.ndarray]
"""(h, w, 3) uint8, width, height -> (height, width, 3) uint8, bicubic."""


def clip_pixels(pixels: np.ndarray, side: int, crop: str, resize: Resize) -> np.ndarray:
    """(h, w, 3) uint8 -> (1, 3, side, side) float32, of mean 0 and deviation 1 over CLIP's training pictures.

    Args:
        crop: `center`: the shorter side becomes `side`, the middle counts; `none`: squeezed into a square.
    Raises:
        ValueError: another crop.
    """
    if crop not in CROPS:
        raise ValueError(f"crop is {crop!r}; known are {', '.join(CROPS)}")
    height, width = pixels.shape[:2]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        new = (round(scale * height), round(scale * width)) if crop == "center" else (side, side)
        pixels = resize(pixels, new[1], new[0])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((square - MEAN) / STD).transpose(2, 0, 1)[None])
