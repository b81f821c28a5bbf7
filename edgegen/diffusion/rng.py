"""Noise from seeds: the only place randomness comes from.

The stream is that of `torch.Generator("cpu").manual_seed(seed)` and `torch.randn`: the Mersenne Twister
MT19937 (its output is frozen in numpy and the same on every machine), 24-bit uniforms, Box-Muller over
blocks of 16. A seed therefore starts from the same noise here and in diffusers on a PC.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

MAX_SEED = 2**63 - 1
_BLOCK = 16


class NoiseSource:
    """A seeded stream of unit normal noise; each call continues it.

    Args:
        seed: 0 to 2**63 - 1; as in torch only its lowest 32 bits count.
    Raises:
        ValueError: the seed is out of range.
    """

    def __init__(self, seed: int):
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed is {seed}; allowed are 0 to {MAX_SEED}")
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)  # only its raw 32-bit words are used

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        """Unit normal noise, float32, of that shape.

        Fewer than 16 values are the first of 16 (torch takes another way there; latents never are so few).
        """
        size = prod(shape)
        uniforms = self._uniforms(max(size, _BLOCK))
        values = _box_muller(uniforms[: len(uniforms) // _BLOCK * _BLOCK])
        if size > _BLOCK and size % _BLOCK:  # torch draws the last block afresh, over the one before
            tail = _box_muller(self._uniforms(_BLOCK))
            values = np.concatenate([values, np.empty(size % _BLOCK, np.float32)])
            values[-_BLOCK:] = tail
        return values[:size].reshape(shape)

    def _uniforms(self, count: int) -> np.ndarray:
        words = self._twister.randint(0, 2**32, count, dtype=np.uint32)
        return (words & 0xFFFFFF) / float(1 << 24)


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """(16 n,) float64 in [0, 1) -> (16 n,) float32: eight radii and eight angles make each block."""
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log1p(-blocks[:, 0]))
    angle = 2 * np.pi * blocks[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32).ravel()


def initial_noise(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Unit normal noise of a seed, float32; equals `NoiseSource(seed).normal(shape)`."""
    return NoiseSource(seed).normal(shape)
