"""Edges beside kornia's, which ComfyUI's node is made of, and of pictures whose edges are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import canny as other_canny

from edgegen.diffusion.edges import LUMA, canny

GOLDEN = np.load(Path(__file__).parent / "golden_canny.npz")
PICTURE = GOLDEN["pixels"].transpose(2, 0, 1).astype(np.float32) / 255
NEAR = np.ones((3, 3), bool)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[None], 3, axis=0).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in GOLDEN.files if name != "pixels"])
def test_every_pixel_is_kornias(name: str) -> None:
    low, high = map(float, name.split("-"))
    wanted = np.unpackbits(GOLDEN[name])[: 96 * 96].reshape(96, 96).astype(bool)
    assert 200 < wanted.sum() < 3000
    np.testing.assert_array_equal(canny(PICTURE, low, high), wanted)


def test_the_edge_of_a_disc_is_a_closed_line_at_its_radius() -> None:
    y, x = np.mgrid[:64, :64] - 31.7
    found = canny(grey(np.clip(20 - np.hypot(y, x), 0, 1)), 0.4, 0.8)
    assert np.abs(np.hypot(y, x)[found] - 19.5).max() < 1
    inside = ndimage.label(~found)[1]  # with corners the line is closed, so that sides do not touch
    assert inside == 2
    assert 5.6 * 19.5 < found.sum() < 8 * 19.5  # between a digital circle's with and without corners


def test_weak_edges_count_where_they_go_on_from_strong_ones() -> None:
    height = np.linspace(0.05, 1, 40)  # of a step that fades downward
    image = np.zeros((40, 40))
    image[:, 19:] = height[::-1, None]
    image[:, 18] = height[::-1] * 0.4
    image[30:, 5:9] = 0.1  # as weak, and alone
    strong = canny(grey(image), 0.8, 0.8)
    both = canny(grey(image), 0.25, 0.8)
    rows = np.flatnonzero(both[:, 17:22].any(axis=1))
    assert rows.max() > np.flatnonzero(strong.any(axis=1)).max() + 5
    assert not both[:, :12].any()
    assert canny(grey(image), 0.1, 0.15)[:, :12].any()


def test_there_are_none_in_what_is_even_nor_at_its_borders() -> None:
    for value in (0.0, 0.5, 1.0):
        assert not canny(grey(np.full((3, 9), value)), 0.01, 0.01).any()
    assert not canny(grey(np.linspace(0, 1, 64) * np.ones((64, 1))), 0.2, 0.2).any()


def test_they_lie_where_another_canny_finds_them() -> None:
    mine = canny(PICTURE, 0.4, 0.8)
    theirs = other_canny(np.tensordot(LUMA, PICTURE, 1), sigma=1, low_threshold=0.4, high_threshold=0.8)
    near = ndimage.binary_dilation(theirs, NEAR)
    assert (mine & near).sum() > 0.9 * mine.sum()
    assert (theirs & ndimage.binary_dilation(mine, NEAR)).sum() > 0.8 * theirs.sum()
