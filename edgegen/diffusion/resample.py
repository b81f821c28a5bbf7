"""Other sizes for latents and pictures, as torch's `interpolate` makes them: one matrix for each axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CUBIC_A = -0.75  # torch's and OpenCV's; Pillow takes -0.5


def resample(samples: np.ndarray, width: int, height: int, method: str) -> np.ndarray:
    """(b, c, h, w) -> (b, c, height, width), float32.

    Args:
        width, height: >= 1.
        method: one of `METHODS`.
    Source: `torch.nn.functional.interpolate` without corner alignment or antialiasing.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; known are {', '.join(METHODS)}")
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width}x{height} has no pixels")
    weights = METHODS[method]
    rows, columns = (weights(old, new) for old, new in zip(samples.shape[2:], (height, width), strict=True))
    return (rows @ samples.astype(np.float64) @ columns.T).astype(np.float32)


def crop_to_shape(samples: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of (b, c, h, w) that has the proportions width : height."""
    old_height, old_width = samples.shape[2:]
    old, new = old_width / old_height, width / height
    x = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    y = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    return samples[:, :, y : old_height - y, x : old_width - x]


def _nearest(old: int, new: int) -> np.ndarray:
    nearest = np.minimum(np.floor((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)
    return np.eye(old)[nearest]


def _linear(old: int, new: int) -> np.ndarray:
    at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    return _spread(old, at, [(0, lambda t: 1 - t), (1, lambda t: t)])


def _cubic(old: int, new: int) -> np.ndarray:
    """Keys 1981, with two pixels on each side."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    return _spread(
        old,
        at,
        [
            (-1, lambda t: _far(t + 1)),
            (0, _near),
            (1, lambda t: _near(1 - t)),
            (2, lambda t: _far(2 - t)),
        ],
    )


def _area(old: int, new: int) -> np.ndarray:
    """Means over windows that cover the axis, rounded outward to whole pixels."""
    first = np.arange(new) * old // new
    last = -(-np.arange(1, new + 1) * old // new)
    covered = (np.arange(old) >= first[:, None]) & (np.arange(old) < last[:, None])
    return covered / covered.sum(axis=1, keepdims=True)


def _near(t: np.ndarray) -> np.ndarray:
    return ((CUBIC_A + 2) * t - (CUBIC_A + 3)) * t * t + 1


def _far(t: np.ndarray) -> np.ndarray:
    return CUBIC_A * (((t - 5) * t + 8) * t - 4)


def _spread(
    old: int, at: np.ndarray, taps: list[tuple[int, Callable[[np.ndarray], np.ndarray]]]
) -> np.ndarray:
    """(new, old) weights of pixels around fractional positions; at the edges the last pixel goes on."""
    base = np.floor(at).astype(int)
    weights = np.zeros((len(at), old))
    for offset, weigh in taps:
        np.add.at(weights, (np.arange(len(at)), np.clip(base + offset, 0, old - 1)), weigh(at - base))
    return weights


METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
    "nearest-exact": _nearest,
    "bilinear": _linear,
    "area": _area,
    "bicubic": _cubic,
}
