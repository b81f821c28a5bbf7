"""Noise from seeds: the only place randomness comes from.

The stream is that of `torch.Generator("cpu").manual_seed(seed)` and `torch.randn`: the Mersenne Twister
MT19937 (Matsumoto & Nishimura 1998; its output is frozen in numpy and the same on every machine) and the
normal transform of Box & Muller 1958 in torch's two ways, one below 16 values and one from 16 on. A seed
therefore starts from the same noise here and in diffusers or ComfyUI on a PC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

MAX_SEED = 2**63 - 1
_BLOCK = 16


@dataclass(frozen=True)
class NoiseState:
    """Where a stream stands: hand it to `NoiseSource.restore` to go on from there.

    Attributes:
        key: (624,) uint32, the twister's words.
        position: how many of them are used up, 0 to 624.
        spare: the second half of a pair that small arrays have not used yet.
    """

    key: np.ndarray
    position: int
    spare: float | None


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
        self._spare: float | None = None

    def normal(self, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """Unit normal noise of that shape, as `torch.randn(shape, dtype=..., generator=...)` gives it.

        Args:
            dtype: float32 or float64; the two take different numbers from the stream.
        Raises:
            ValueError: another dtype.
        """
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"dtype is {kind}; allowed are float32 and float64")
        size = prod(shape)
        values = self._blocks(size, kind) if size >= _BLOCK else self._pairs(size)
        return values.astype(kind, copy=False).reshape(shape)

    def words(self, count: int) -> np.ndarray:
        """(count,) uint32: the twister's next raw numbers."""
        return self._twister.randint(0, 2**32, count, dtype=np.uint32)

    def state(self) -> NoiseState:
        """Where the stream stands now."""
        _, key, position, *_ = self._twister.get_state(legacy=True)
        return NoiseState(np.array(key, np.uint32), int(position), self._spare)

    def restore(self, state: NoiseState) -> None:
        """Go on from a state taken earlier. Raises ValueError when it is none."""
        self._twister.set_state(("MT19937", state.key, state.position, 0, 0.0))
        self._spare = state.spare

    def _pairs(self, size: int) -> np.ndarray:
        """Fewer than 16: one value after the other, in pairs whose second half may wait for the next call."""
        values = np.empty(size)
        for k in range(size):
            if self._spare is not None:
                values[k], self._spare = self._spare, None
                continue
            first, second = self._doubles(2)
            radius, angle = np.sqrt(-2 * np.log1p(-second)), 2 * np.pi * first
            values[k], self._spare = radius * np.cos(angle), float(radius * np.sin(angle))
        return values

    def _blocks(self, size: int, kind: np.dtype[Any]) -> np.ndarray:
        """16 or more: all uniforms first, then blocks of 16 become normal in place."""
        draw = self._singles if kind == np.float32 else self._doubles
        values = draw(size)
        whole = size // _BLOCK * _BLOCK
        values[:whole] = _box_muller(values[:whole])
        if whole < size:  # torch draws the last block afresh, over the one before
            values[-_BLOCK:] = _box_muller(draw(_BLOCK))
        return values

    def _singles(self, count: int) -> np.ndarray:
        """(count,) float32 in [0, 1) of 24 bits each."""
        return (self.words(count) & 0xFFFFFF).astype(np.float32) / np.float32(1 << 24)

    def _doubles(self, count: int) -> np.ndarray:
        """(count,) float64 in [0, 1) of 53 bits each, the high word drawn first."""
        high, low = self.words(2 * count).reshape(-1, 2).astype(np.uint64).T
        return ((high << np.uint64(32) | low) & np.uint64((1 << 53) - 1)) / float(1 << 53)


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """(16 n,) in [0, 1) -> (16 n,) of the same dtype: eight radii and eight angles make each block.

    The angle is rounded to the dtype as torch does it; cosine and sine are then as exact as can be, for
    torch's own differ in the last bit between processors.
    """
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log1p(-blocks[:, 0].astype(np.float64)))
    angle = (uniforms.dtype.type(2 * np.pi) * blocks[:, 1]).astype(np.float64)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.astype(uniforms.dtype).ravel()


def noise_by_place(seed: int, shape: Sequence[int], places: Sequence[int]) -> np.ndarray:
    """(len(places), ...) float32: for each, the noise that a batch's picture of that number starts from.

    Args:
        shape: of the whole; the noises are drawn one by one, as ComfyUI does for parts of a batch.
    """
    source = NoiseSource(seed)
    noises = [source.normal((1, *shape[1:])) for _ in range(max(places) + 1)]
    return np.concatenate([noises[place] for place in places])


def initial_noise(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Unit normal noise of a seed, float32; equals `NoiseSource(seed).normal(shape)`."""
    return NoiseSource(seed).normal(shape)
