"""Tiles: exact where a function looks at neighbours only, blended where it looks at all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.engine.tiles import map_blended, map_exactly, spans
from edgegen.errors import EngineError


@given(length=st.integers(1, 300), tile=st.integers(1, 80), overlap=st.integers(0, 79))
def test_spans_cover_the_whole_in_equal_tiles(length: int, tile: int, overlap: int) -> None:
    overlap = min(overlap, tile - 1)
    found = spans(length, tile, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert {stop - start for start, stop in found} == {min(tile, length)}
    for (_, stop), (start, _) in pairwise(found):
        assert stop - start >= overlap


@pytest.mark.parametrize(("tile", "overlap"), [(4, 4), (4, -1), (1, 1)])
def test_an_overlap_as_large_as_a_tile_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=rf"overlap is {overlap}; it must be 0 to {tile - 1}"):
        spans(10, tile, overlap)


def blurred(x: np.ndarray) -> np.ndarray:
    """Twice as large; each pixel is the sum of its 3x3 neighbours, zeros beyond the ends, as in a Conv."""
    big = x.repeat(2, 2).repeat(2, 3)
    padded = np.pad(big, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = big.shape[2:]
    return sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3))


@given(height=st.integers(1, 20), width=st.integers(1, 20), tile=st.integers(1, 20))
def test_tiles_with_their_neighbours_are_the_whole(height: int, width: int, tile: int) -> None:
    x = np.random.default_rng(height * 31 + width).integers(-9, 9, (2, 3, height, width)).astype(np.float32)
    assert (map_exactly(blurred, x, tile, 1, 2) == blurred(x)).all()


def test_tiles_without_their_neighbours_are_not() -> None:
    x = np.ones((1, 1, 8, 8), np.float32)
    assert (map_exactly(blurred, x, 4, 0, 2) != blurred(x)).any()


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), tile=st.integers(2, 16), overlap=st.integers(0, 15)
)
def test_blending_leaves_what_tiles_agree_on(height: int, width: int, tile: int, overlap: int) -> None:
    x = np.random.default_rng(height * 41 + width).standard_normal((1, 3, height, width)).astype(np.float32)
    got = map_blended(lambda part: part.repeat(2, 2).repeat(2, 3), x, tile, min(overlap, tile - 1), 2)
    np.testing.assert_allclose(got, x.repeat(2, 2).repeat(2, 3), atol=1e-6)


def test_a_seam_fades_from_one_tile_into_the_next() -> None:
    """Tiles that disagree by 1: where they overlap the result climbs, with no step larger than its share."""
    calls = iter(range(9))
    got = map_blended(
        lambda part: np.full_like(part, next(calls)), np.zeros((1, 1, 4, 12), np.float32), 8, 4, 1
    )
    row = got[0, 0, 0]
    assert (row[:4], row[8:]) == (pytest.approx([0] * 4), pytest.approx([1] * 4))
    assert row[4:8] == pytest.approx([0.125, 0.375, 0.625, 0.875])


def test_a_function_that_gives_another_size_is_an_engine_error() -> None:
    x = np.zeros((1, 1, 8, 8), np.float32)
    with pytest.raises(EngineError, match="a tile came back as"):
        map_exactly(lambda part: part[:, :, :1], x, 4, 0, 1)
    with pytest.raises(EngineError, match="a tile came back with"):
        map_blended(lambda part: part.repeat(3, 3), x, 4, 2, 1)
