from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.diffusion.rng import MAX_SEED, NoiseSource, initial_noise

GOLDEN = np.load(Path(__file__).parent / "golden.npz")


def test_the_stream_is_torchs() -> None:
    source = NoiseSource(1234)
    for k in range(4):
        want = GOLDEN[f"torch-randn-1234/{k}"]
        np.testing.assert_allclose(source.normal(want.shape), want, rtol=2e-5, atol=2e-6)


def test_noise_is_normal_and_depends_on_the_seed() -> None:
    noise = initial_noise(1, (1, 4, 64, 64))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert np.array_equal(noise, initial_noise(1, (1, 4, 64, 64)))
    assert not np.array_equal(noise, initial_noise(2, (1, 4, 64, 64)))
    assert not np.isnan(initial_noise(MAX_SEED, (1, 4, 64, 64))).any()


def test_the_first_values_never_change() -> None:
    np.testing.assert_allclose(
        initial_noise(0, (1, 4, 8, 8)).ravel()[:4],
        [-1.1258398, -1.1523602, -0.2505786, -0.4338788],
        rtol=1e-6,
    )


@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 31, 32, 100])
def test_any_size(size: int) -> None:
    noise = initial_noise(3, (size,))
    assert noise.shape == (size,)
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}; allowed are 0 to {MAX_SEED}"):
        NoiseSource(seed)
