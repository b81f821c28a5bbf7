from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.pixels import to_model_input, to_uint8, to_uint8_cut


def test_ends_and_middle() -> None:
    sample = np.zeros((1, 3, 2, 4), np.float32)
    sample[0, 0], sample[0, 1] = -1, 1
    pixels = to_uint8(sample)
    assert pixels.shape == (2, 4, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [0, 255, 128]


def test_beyond_the_ends_is_clipped_and_half_floats_work() -> None:
    pixels = to_uint8(np.array([-9, 9, 1.01], np.float16).reshape(3, 1, 1))
    assert pixels.ravel().tolist() == [0, 255, 255]


def test_there_and_back_is_exact() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    sample = to_model_input(pixels)
    assert sample.shape == (1, 3, 16, 16)
    assert sample.dtype == np.float32
    assert np.array_equal(to_uint8(sample), pixels)
    assert np.array_equal(to_uint8_cut(sample), pixels)


def test_cut_off_they_are_comfyuis() -> None:
    """Whose pictures are 0 to 1: numpy.clip(255.0 * picture, 0, 255).astype(numpy.uint8)."""
    sample = np.random.default_rng(0).normal(0, 0.7, (3, 40, 50)).astype(np.float32)
    wanted = np.clip(255.0 * ((sample + 1) / 2), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(to_uint8_cut(sample), wanted)
    assert 0.2 < (to_uint8(sample) != wanted).mean() < 0.6


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 4, 4, 4), (4, 4)])
def test_wrong_shapes(shape: tuple) -> None:
    with pytest.raises(ValueError, match="shape"):
        to_uint8(np.zeros(shape, np.float32))


def test_wrong_pixels() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_model_input(np.zeros((4, 4, 3), np.float32))
