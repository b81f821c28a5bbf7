from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.metrics import psnr_db, relative_error, sqnr_db, ssim


def noisy_pair(seed: int = 0, sigma: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 255, 48)[:, None, None] * np.ones((48, 40, 3))
    first = np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
    return first, np.clip(first + rng.normal(0, sigma, smooth.shape), 0, 255).astype(np.uint8)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is only a second opinion")
    first, second = noisy_pair()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    wanted = metrics.structural_similarity(first, second, channel_axis=2, **settings)
    assert ssim(first, second) == pytest.approx(wanted, abs=1e-7)


def test_ssim_of_a_constant_shift_is_the_luminance_term():
    first, second = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 110, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(first, second) == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1), abs=1e-6)


@given(st.floats(1, 60))
def test_ssim_is_symmetric_and_at_most_one(sigma: float):
    first, second = noisy_pair(sigma=sigma)
    assert ssim(first, second) == pytest.approx(ssim(second, first))
    assert ssim(first, second) <= ssim(first, first) == pytest.approx(1)


def test_psnr_of_a_constant_difference():
    first, second = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 51, np.uint8)
    assert psnr_db(first, second) == pytest.approx(20 * np.log10(5))
    assert psnr_db(first, first) == 200


def test_sqnr_is_the_ratio_of_energies():
    signal = np.array([3.0, 4.0], np.float32)
    assert sqnr_db(signal, signal + np.array([0.05, 0.0], np.float32)) == pytest.approx(40, abs=1e-3)
    assert relative_error(signal, signal + 0.4) == pytest.approx(0.1)


def test_pictures_must_match_and_be_large_enough():
    with pytest.raises(ValueError, match="one shape"):
        psnr_db(np.zeros((12, 12, 3), np.uint8), np.zeros((12, 13, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        psnr_db(np.zeros((12, 12, 3), np.float32), np.zeros((12, 12, 3), np.float32))
    with pytest.raises(ValueError, match="smaller than"):
        ssim(np.zeros((10, 12, 3), np.uint8), np.zeros((10, 12, 3), np.uint8))
