"""What some denoisers are told beside the words: the guidance, embedded, and the picture's sides."""

from __future__ import annotations

import numpy as np

GUIDANCE_PERIOD = 10_000.0


def guidance_embedding(guidance_scale: float, dim: int) -> np.ndarray:
    """The guidance scale as sines and cosines: input `timestep_cond` of a guidance-distilled denoiser.

    Such a denoiser learned what guidance does: it runs once a step, whatever the scale.

    Args:
        guidance_scale: >= 1; embedded is 1000 (guidance_scale - 1).
        dim: the manifest's `guidance_embedding_dim`, >= 4.
    Returns:
        (1, dim) float32; an odd `dim` ends with a zero.
    Source: Meng et al. 2023, arXiv:2210.03142; Luo et al. 2023, arXiv:2310.04378, with the frequencies
        of diffusers' `get_guidance_scale_embedding`.
    """
    half = dim // 2
    spacing = np.float32(np.log(GUIDANCE_PERIOD) / (half - 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -spacing)
    angles = np.float32(np.float32(guidance_scale - 1) * np.float32(1000)) * frequencies
    padding = np.zeros(dim % 2, np.float32)
    return np.concatenate([np.sin(angles), np.cos(angles), padding])[None].astype(np.float32)


def size_ids(width: int, height: int) -> np.ndarray:
    """Stable Diffusion XL's `time_ids` of a picture that was neither scaled nor cropped.

    Args:
        width, height: of the picture to make, in pixels.
    Returns:
        (1, 6) float32: original height and width, crop top and left, target height and width.
    Source: Podell et al. 2023, arXiv:2307.01952, section 2.2.
    """
    return np.array([[height, width, 0, 0, height, width]], np.float32)
