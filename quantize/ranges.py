"""Which range 8 bits should cover: clipping costs the tail, covering costs every step."""

from __future__ import annotations

import numpy as np

LEVELS = 255
_SHRINKS = np.linspace(0.2, 1.0, 41)


def best_range(hist: np.ndarray, edges: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] whose 8-bit quantization has the smallest mean squared error.

    Both ends are tried from a fifth of the way to the whole; the range always holds 0, as ONNX's zero
    points need it.

    Args:
        hist: (n,) counts.
        edges: (n + 1,) ascending.
        low, high: smallest and largest value seen.
    Returns:
        (low, high) of the best range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 0 or hist.sum() == 0:
        return low, high
    centres = (edges[:-1] + edges[1:]) / 2
    lows, highs = low * _SHRINKS, high * _SHRINKS
    lost_below = [float((hist * np.square(np.minimum(centres - a, 0))).sum()) for a in lows]
    lost_above = [float((hist * np.square(np.maximum(centres - b, 0))).sum()) for b in highs]
    widths = highs[None, :] - lows[:, None]
    rounding = hist.sum() * np.square(widths / LEVELS) / 12
    cost = np.asarray(lost_below)[:, None] + np.asarray(lost_above)[None, :] + rounding
    i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[i]), float(highs[j])
