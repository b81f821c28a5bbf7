"""Latents as colours, without a decoder."""

from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.preview import (
    SD1_FACTORS,
    SDXL_FACTORS,
    RgbFactors,
    factors_for,
    fit_factors,
    preview_pixels,
)


def test_the_fit_finds_the_factors_that_made_the_pictures() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.uniform(-0.3, 0.3, (5, 3)).round(4)
    bias = np.array([0.1, -0.2, 0.3])
    latents = [rng.standard_normal((1, 5, 6, 4)).astype(np.float32) for _ in range(3)]
    small = [np.einsum("bchw,cr->brhw", one, wanted) + bias[:, None, None] for one in latents]
    pictures = [one.repeat(8, axis=2).repeat(8, axis=3) for one in small]
    found = fit_factors(latents, pictures)
    assert np.allclose(found.factors, wanted, atol=2e-4)
    assert np.allclose(found.bias, bias, atol=2e-4)


def test_pixels_are_latents_times_factors_clipped_and_never_fail() -> None:
    rgb = RgbFactors([[1, 0, 0], [0, 1, 0]], [0, 0, 0.5])
    latents = np.array([[[[-9.0, 0.0]], [[1.0, np.nan]]]], np.float32)
    assert preview_pixels(latents, rgb).tolist() == [[[0, 255, 191], [128, 128, 191]]]


@pytest.mark.parametrize(
    ("family", "channels", "found"),
    [("sd1", 4, SD1_FACTORS), ("sdxl", 4, SDXL_FACTORS), ("sd1", 16, None), ("unheard-of", 4, None)],
)
def test_a_familys_factors_count_only_where_they_fit(family, channels, found) -> None:
    assert factors_for(family, channels) is found
    own = RgbFactors([[0.0, 0.0, 0.0]] * channels)
    assert factors_for(family, channels, own) is own


def test_zero_latents_of_the_published_factors_are_a_plain_colour() -> None:
    assert (preview_pixels(np.zeros((1, 4, 2, 2)), SD1_FACTORS) == 128).all()
    assert preview_pixels(np.zeros((1, 4, 1, 1)), SDXL_FACTORS).tolist() == [[[150, 140, 130]]]
