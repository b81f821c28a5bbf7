"""Edges of a picture, for ControlNets that were trained to follow them.

Source: Canny 1986, "A computational approach to edge detection", with the filters and borders of kornia's
`filters.canny`, by which ComfyUI's node works.
"""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BLUR = np.exp(-(np.arange(-2, 3) ** 2) / 2)
_BLUR = (_BLUR / _BLUR.sum()).astype(np.float32)
_SMOOTH, _SLOPE = np.array([1, 2, 1], np.float32), np.array([-1, 0, 1], np.float32)
_FLAT = np.float32(1e-6)
# (rows down, columns right) of the neighbour in each eighth of a turn, clockwise from the right
_EIGHTHS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def canny(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where the picture's edges are.

    Args:
        picture: (3, h, w) float32, 0 black to 1 white; h and w at least 3.
        low, high: an edge begins where the slope (8 for a step from black to white that nothing blurs) is
            above `high`, and goes on while it is above `low`.
    Returns:
        (h, w) bool, lines one pixel wide.
    """
    grey = np.tensordot(LUMA, picture, 1)
    blurred = _along(_along(grey, _BLUR, 0, "reflect"), _BLUR, 1, "reflect")
    across = _along(_along(blurred, _SMOOTH, 0, "edge"), _SLOPE, 1, "edge")
    down = _along(_along(blurred, _SLOPE, 0, "edge"), _SMOOTH, 1, "edge")
    slope = np.sqrt(across**2 + down**2 + _FLAT)
    slope = np.where(_is_ridge(slope, np.arctan2(down, across)), slope, 0)
    return _connected(slope > low, slope > high)


def _along(values: np.ndarray, weights: np.ndarray, axis: int, border: str) -> np.ndarray:
    """(h, w) filtered in one direction; borders as numpy's `pad` calls them."""
    widths = [(len(weights) // 2,) * 2 if k == axis else (0, 0) for k in range(2)]
    padded = np.pad(values, widths, mode=border)  # type: ignore[call-overload]
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
    return np.asarray(windows @ weights)


def _is_ridge(slope: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Whether the slope is larger than that of both neighbours in its direction, to an eighth of a turn."""
    height, width = slope.shape
    padded = np.pad(slope, 1)
    eighth = np.rint(angle * np.float32(4 / np.pi)).astype(int) % 8
    found = np.ones(slope.shape, bool)
    for turn in (0, 4):
        rows, columns = np.moveaxis(np.array(_EIGHTHS)[(eighth + turn) % 8], -1, 0)
        beside = padded[np.arange(height)[:, None] + 1 + rows, np.arange(width) + 1 + columns]
        found &= slope > beside
    return found


def _connected(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """The weak pixels that touch a strong one, directly or over others, corners included."""
    height, width = weak.shape
    open_ = np.pad(weak & ~strong, 1)
    found = np.pad(strong, 1)
    steps = np.array([row * (width + 2) + column for row, column in _EIGHTHS])
    flat_open, flat_found = open_.ravel(), found.ravel()
    front = np.flatnonzero(flat_found)
    while len(front):
        reached = np.unique(front[:, None] + steps)
        front = reached[flat_open[reached]]
        flat_open[front], flat_found[front] = False, True
    return found[1 : height + 1, 1 : width + 1]
