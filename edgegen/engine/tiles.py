"""Large arrays piece by piece: where tiles lie, and how their results become one.

Tiles that bring along all that a function looks at give the very numbers of the whole (`map_exactly`). Where
it looks at everything, as decoders with norms do, tiles differ a little, and their seams are blended
(`map_blended`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from ..errors import EngineError

Function = Callable[[np.ndarray], np.ndarray]
"""(b, c, h, w) -> (b, d, scale * h, scale * w)."""


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Tiles of one size that cover 0..length and overlap by `overlap` at least, evenly laid.

    Returns:
        (start, stop) of each; one alone when the whole is no longer than a tile.
    Raises:
        ValueError: 0 <= overlap < tile does not hold.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}; it must be 0 to {tile - 1}, less than a tile ({tile})")
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [k * (length - tile) // (count - 1) for k in range(count)]
    return [(start, start + tile) for start in starts]


def map_exactly(function: Function, x: np.ndarray, tile: int, halo: int, scale: int) -> np.ndarray:
    """The function's result on the whole, from tiles that know their neighbours.

    Args:
        x: (b, c, h, w).
        tile: rows and columns of `x` a run adds to the result, >= 1.
        halo: rows and columns the function looks beyond; at the array's own ends it sees what it always does.
        scale: rows of the result for each of `x`.
    Returns:
        (b, d, scale * h, scale * w): what `function(x)` gives.
    """
    height, width = x.shape[2:]
    out: np.ndarray | None = None
    for top, bottom in spans(height, min(tile, height), 0):
        for left, right in spans(width, min(tile, width), 0):
            y, dx = max(0, top - halo), max(0, left - halo)
            piece = function(np.ascontiguousarray(x[:, :, y : bottom + halo, dx : right + halo]))
            if out is None:
                out = np.empty((*piece.shape[:2], height * scale, width * scale), piece.dtype)
            rows = slice((top - y) * scale, (bottom - y) * scale)
            columns = slice((left - dx) * scale, (right - dx) * scale)
            into = out[:, :, top * scale : bottom * scale, left * scale : right * scale]
            _fill(into, piece[:, :, rows, columns])
    assert out is not None, "there is one tile at least"
    return out


def _fill(into: np.ndarray, piece: np.ndarray) -> None:
    if into.shape != piece.shape:
        raise EngineError(f"a tile came back as {piece.shape}, expected {into.shape}")
    into[...] = piece


def map_blended(function: Function, x: np.ndarray, tile: int, overlap: int, scale: int) -> np.ndarray:
    """Nearly the function's result on the whole: each tile alone, faded into the next where they overlap.

    Args:
        x: (b, c, h, w).
        tile: rows and columns of `x` a run sees.
        overlap: of two tiles side by side, at least; 0 <= overlap < tile.
        scale: rows of the result for each of `x`.
    Returns:
        (b, d, scale * h, scale * w) float32; `function(x)` itself when one tile holds all.
    """
    work = blended_tiles(function, x, tile, overlap, scale)
    try:
        while True:
            next(work)
    except StopIteration as done:
        whole: np.ndarray = done.value
        return whole


def blended_tiles(
    function: Function, x: np.ndarray, tile: int, overlap: int, scale: int
) -> Generator[tuple[int, int], None, np.ndarray]:
    """As `map_blended`, step by step: yields (tiles done, tiles in all) after each but a lone one."""
    high, wide = spans(x.shape[2], tile, overlap), spans(x.shape[3], tile, overlap)
    if len(high) == len(wide) == 1:
        return function(x)
    done = 0
    out: np.ndarray | None = None
    for top, bottom in high:
        strip: np.ndarray | None = None
        for left, right in wide:
            piece = function(np.ascontiguousarray(x[:, :, top:bottom, left:right]))
            strip = _blend(strip, piece, 3, left * scale, x.shape[3] * scale)
            done += 1
            yield done, len(high) * len(wide)
        assert strip is not None, "there is one tile at least"
        out = _blend(out, strip, 2, top * scale, x.shape[2] * scale)
    assert out is not None, "there is one strip at least"
    return out


def _blend(done: np.ndarray | None, piece: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    """Lay a piece behind what is done along an axis, fading over where both are; `done` grows to `length`."""
    if done is None:
        return np.asarray(piece, np.float32)
    shared = done.shape[axis] - start
    if not 0 <= shared <= piece.shape[axis] or start + piece.shape[axis] > length:
        raise EngineError(f"a tile came back with {piece.shape[axis]} rows or columns, too few or too many")
    before, old = np.split(done, [start], axis)
    new, after = np.split(piece, [shared], axis)
    shape = [1] * done.ndim
    shape[axis] = shared
    share = ((np.arange(shared, dtype=np.float32) + 0.5) / max(1, shared)).reshape(shape)
    return np.concatenate([before, old + (new - old) * share, after], axis)
