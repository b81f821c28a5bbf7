"""Decoding in tiles as ComfyUI's VAEDecodeTiled does it, so that its workflows make the same picture.

Unlike `tiles.map_blended`, tiles there start at fixed strides, fade out at every edge, and three tilings
(upright, lying and square) are averaged.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from .tiles import Function


def decode_three_ways(
    decode: Function, latents: np.ndarray, tile: int, overlap: int, scale: int
) -> np.ndarray:
    """The mean of three tilings.

    Args:
        decode: (1, c, h, w) -> (1, 3, scale * h, scale * w).
        latents: (1, c, h, w).
        tile, overlap: in latents, 4 * overlap <= tile, tile >= 4.
    Returns:
        (1, 3, scale * h, scale * w) float32.
    """
    shapes = (2 * tile, tile // 2), (tile // 2, 2 * tile), (tile, tile)
    total = sum(map_feathered(decode, latents, shape, overlap, scale) for shape in shapes)
    return np.asarray(total / 3, np.float32)


def map_feathered(
    function: Function, x: np.ndarray, tile: tuple[int, int], overlap: int, scale: int
) -> np.ndarray:
    """The function's result from tiles, averaged by weights that fall toward every edge of a tile.

    Args:
        tile: rows and columns of `x` that a run sees, each more than `overlap`.
    """
    height, width = x.shape[2:]
    if height <= tile[0] and width <= tile[1]:
        return function(x)
    total: np.ndarray | None = None
    weights = np.zeros((height * scale, width * scale), np.float32)
    for rows, columns in product(_strides(height, tile[0], overlap), _strides(width, tile[1], overlap)):
        piece = function(np.ascontiguousarray(x[:, :, rows, columns]))
        weight = _feather(piece.shape[2], overlap * scale)[:, None] * _feather(
            piece.shape[3], overlap * scale
        )
        if total is None:
            total = np.zeros((*piece.shape[:2], *weights.shape), np.float32)
        place = (
            slice(rows.start * scale, rows.stop * scale),
            slice(columns.start * scale, columns.stop * scale),
        )
        total[:, :, *place] += piece * weight
        weights[place] += weight
    assert total is not None, "there is one tile at least"
    return total / weights


def _strides(length: int, tile: int, overlap: int) -> list[slice]:
    if length <= tile:
        return [slice(0, length)]
    starts = range(0, length - overlap, tile - overlap)
    return [slice(start, min(start + tile, length)) for start in starts]


def _feather(length: int, fade: int) -> np.ndarray:
    """(length,) float32; a tile no longer than the fade has none."""
    weight = np.ones(length, np.float32)
    if fade < length:
        ramp = np.arange(1, fade + 1, dtype=np.float32) / np.float32(max(fade, 1))
        weight[:fade] *= ramp
        weight[length - fade :] *= ramp[::-1]
    return weight
