"""Painting over a part of a picture."""

from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.masking import KeptPicture, fit_mask, grow_mask
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.sampler import sample
from edgegen.diffusion.schedulers import SCHEDULERS, part_of_run
from edgegen.diffusion.schedules import NoiseSchedule

SHAPE = (1, 2, 4, 4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_ends_at_the_kept_picture_where_the_mask_is_0(name: str) -> None:
    rng = np.random.default_rng(0)
    picture, noise = rng.standard_normal((2, *SHAPE), np.float32)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., 2:] = 1
    run = part_of_run(name, NoiseSchedule(), "epsilon", 5, "normal")
    assert run is not None
    run.kept = KeptPicture(picture, noise, mask)
    shown: list[np.ndarray] = []

    def denoiser(latents: np.ndarray, timestep: float, told: None) -> np.ndarray:
        shown.append(latents)
        return np.tanh(latents)

    start = picture + np.float32(run.init_noise_sigma) * noise
    *_, last = sample(denoiser, run, start, None, None, 1.0, NoiseSource(0))
    np.testing.assert_allclose(last.latents[..., :2], picture[..., :2], atol=1e-5)
    assert np.abs(last.latents[..., 2:] - picture[..., 2:]).min() > 1e-3
    sigma = float(run.sigmas[0])
    expected = (picture + sigma * noise) / np.hypot(sigma, 1)
    np.testing.assert_allclose(shown[0][..., :2], expected[..., :2], rtol=1e-4, atol=1e-5)


def test_a_mask_between_0_and_1_mixes() -> None:
    one, other = np.ones(SHAPE), np.full(SHAPE, 3.0)
    kept = KeptPicture(other, np.ones(SHAPE), np.full((1, 1, 4, 4), 0.25))
    assert (kept.seen(one) == 2.5).all()
    assert (kept.shown(one, 2.0) == 0.25 + 0.75 * 5).all()


def test_masks_fit_latents_and_go_around_in_a_batch() -> None:
    masks = np.stack([np.zeros((1, 16, 8)), np.ones((1, 16, 8))]).astype(np.float32)
    masks[0, 0, :8] = 1
    fitted = fit_mask(masks, 3, 2, 4)
    assert fitted.shape == (3, 1, 4, 2)
    assert fitted[0, 0, :, 0].tolist() == [1, 1, 0, 0]
    assert (fitted[1] == 1).all()
    assert np.array_equal(fitted[2], fitted[0])


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 6])
def test_grown_masks_are_where_a_window_of_ones_meets_the_mask(pixels: int) -> None:
    mask = np.zeros((1, 1, 12, 15), np.float32)
    mask[0, 0, 3, 4] = mask[0, 0, 11, 14] = 1
    grown = grow_mask(mask, pixels)
    assert grown.shape == mask.shape
    before = -(-(pixels - 1) // 2)
    for y, x in np.ndindex(12, 15):
        rows = slice(max(0, y - before), max(0, y - before + pixels))
        columns = slice(max(0, x - before), max(0, x - before + pixels))
        wanted = mask[0, 0, rows, columns].any() if pixels else mask[0, 0, y, x]
        assert grown[0, 0, y, x] == wanted
