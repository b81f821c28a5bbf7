"""CFG++: guidance moves the picture, the noise goes back on as seen without it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from edgegen.diffusion.masking import KeptPicture
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.sampler import sample
from edgegen.diffusion.schedulers import SCHEDULERS, make_scheduler, needs_both_passes, part_of_run
from edgegen.diffusion.schedules import NoiseSchedule, alphas_cumprod
from edgegen.diffusion.solvers import Step, ancestral_levels

SHAPE = (1, 2, 4, 4)
NAMES = [name for name, sampler in SCHEDULERS.items() if sampler.sees_unguided]
SIGMAS = np.array([14.6, 6.0, 2.5, 1.0, 0.3, 0.0])
GUIDANCE = np.float32(0.8)


def told_apart(latents: np.ndarray, timestep: float, conditioning: float) -> np.ndarray:
    """A denoiser whose answer depends on all it is told."""
    return np.tanh(latents * (1 + timestep / 1000) + conditioning).astype(np.float32)


def walk(name: str, denoise_both: Callable | None, x: np.ndarray) -> list[np.ndarray]:
    """Latents after every step over SIGMAS."""
    noise, history, found = np.random.default_rng(3), (), []
    look = denoise_both or picture_pair

    def draw() -> np.ndarray:
        return noise.standard_normal(SHAPE)

    for i in range(len(SIGMAS) - 1):
        step = Step(lambda x, sigma: look(x, sigma)[0], x, SIGMAS, i, history, draw, denoise_both)
        moved = SCHEDULERS[name].solve(step)
        x, history = moved.x, moved.history
        found.append(x)
    return found


def picture_pair(x: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """A guided picture and an unguided one."""
    return np.sin(x / (1 + sigma)) + 0.2 * sigma, np.cos(x / (1 + sigma))


START = np.random.default_rng(1).standard_normal(SHAPE) * SIGMAS[0]


@pytest.mark.parametrize("name", NAMES)
def test_where_both_pictures_are_one_it_is_the_plain_solver(name: str) -> None:
    one = walk(name, lambda x, sigma: (picture_pair(x, sigma)[0],) * 2, START)
    np.testing.assert_allclose(one, walk(name.removesuffix("_cfg_pp"), None, START), rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_counts_and_ends_at_the_guided_picture(name: str) -> None:
    looks: list[np.ndarray] = []

    def watched(x: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        looks.append(picture_pair(x, sigma)[0])
        return picture_pair(x, sigma)

    *_, last = walk(name, watched, START)
    np.testing.assert_allclose(last, looks[-1])
    assert np.abs(last - walk(name.removesuffix("_cfg_pp"), None, START)[-1]).max() > 0.01


def test_euler_is_the_papers_algorithm_2() -> None:
    """Written down in its own frame: latents of unit variance and noise, not pictures, of both sides."""
    schedule, steps = NoiseSchedule(), 6
    scheduler = make_scheduler("euler_cfg_pp", schedule, "epsilon", steps)
    a = np.append(alphas_cumprod(schedule)[np.round(scheduler.timesteps).astype(int)], 1.0)
    x_t = NoiseSource(5).normal(SHAPE).astype(np.float64)
    start = (x_t * np.hypot(scheduler.sigmas[0], 1)).astype(np.float32)
    *_, last = sample(told_apart, scheduler, start, 1.0, 0.0, GUIDANCE)
    for t, a_t, a_before in zip(scheduler.timesteps, a[:-1], a[1:], strict=True):
        plain, wanted = (told_apart(x_t, t, told) for told in (0.0, 1.0))
        guided = plain + GUIDANCE * (wanted - plain)
        picture = (x_t - np.sqrt(1 - a_t) * guided) / np.sqrt(a_t)
        x_t = np.sqrt(a_before) * picture + np.sqrt(1 - a_before) * plain
    np.testing.assert_allclose(last.latents, x_t, rtol=1e-4, atol=1e-4)


def test_multistep_as_written_in_log_snr() -> None:
    """DPM-Solver++(2M) of CFG++, with lambda = -ln sigma; its change is guided minus unguided before."""
    x, before, h_before = START, None, 0.0
    wanted = []
    for here, there in pairwise(SIGMAS):
        guided, plain = picture_pair(x, here)
        if there == 0:
            x = guided
        else:
            h = np.log(here) - np.log(there)
            x = guided - np.exp(-h) * plain + np.exp(-h) * x
            if before is not None:
                x = x - np.expm1(-h) / (2 * h_before / h) * (guided - before)
            h_before = h
        before = plain
        wanted.append(x)
    np.testing.assert_allclose(walk("dpmpp_2m_cfg_pp", picture_pair, START), wanted, rtol=1e-10)


def test_second_order_ancestral_starts_where_guidance_has_moved_the_latents() -> None:
    down, up = ancestral_levels(SIGMAS[0], SIGMAS[1])
    guided, plain = picture_pair(START, SIGMAS[0])
    moved, middle = START + guided - plain, np.sqrt(SIGMAS[0] * down)
    half = middle / SIGMAS[0] * moved + (1 - middle / SIGMAS[0]) * guided
    seen = picture_pair(half, middle)[0]
    fresh = np.random.default_rng(3).standard_normal(SHAPE)
    wanted = down / SIGMAS[0] * moved + (1 - down / SIGMAS[0]) * seen + up * fresh
    np.testing.assert_allclose(walk("dpmpp_2s_ancestral_cfg_pp", picture_pair, START)[0], wanted, rtol=1e-10)


@pytest.mark.parametrize("name", ["res_multistep_cfg_pp", "res_multistep_ancestral_cfg_pp"])
def test_the_refined_solver_bends_by_what_is_seen_without_guidance(name: str) -> None:
    first, second = walk(name, picture_pair, START)[:2]
    guided, plain = picture_pair(first, SIGMAS[1])
    before = picture_pair(START, SIGMAS[0])[1]
    down, up, back = SIGMAS[2], 0.0, SIGMAS[1]
    noise = np.random.default_rng(3)
    if "ancestral" in name:
        down, up = ancestral_levels(SIGMAS[1], SIGMAS[2])
        back = ancestral_levels(SIGMAS[0], SIGMAS[1])[0]
        noise.standard_normal(SHAPE)
    h = np.log(SIGMAS[1] / down)
    c_2 = -np.log(SIGMAS[0] / back) / h
    phi_1 = np.expm1(-h) / -h
    phi_2 = (phi_1 - 1) / -h
    wanted = np.exp(-h) * (first + guided - plain) + h * (
        (phi_1 - phi_2 / c_2) * plain + phi_2 / c_2 * before
    )
    np.testing.assert_allclose(second, wanted + up * noise.standard_normal(SHAPE), rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guidance", [0.6, 1.0, 3.0])
def test_both_passes_are_run_at_any_guidance(name: str, guidance: float) -> None:
    told: list[float] = []

    def denoiser(latents: np.ndarray, timestep: float, conditioning: float) -> np.ndarray:
        told.append(conditioning)
        return told_apart(latents, timestep, conditioning)

    scheduler = make_scheduler(name, NoiseSchedule(), "epsilon", 4)
    start = NoiseSource(1).normal(SHAPE) * np.float32(scheduler.init_noise_sigma)
    list(sample(denoiser, scheduler, start, 1.0, 0.0, guidance, NoiseSource(2)))
    assert told.count(0.0) >= 4
    assert needs_both_passes(name, guidance)
    assert needs_both_passes("euler", guidance) == (guidance != 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_guided_run_cut_off_goes_on_to_the_identical_picture(name: str) -> None:
    def rest(rng: NoiseSource, latents: np.ndarray | None = None, resume=None) -> list:
        scheduler = make_scheduler(name, NoiseSchedule(), "epsilon", 5, "karras")
        if latents is None:
            latents = rng.normal(SHAPE) * np.float32(scheduler.init_noise_sigma)
        return list(sample(told_apart, scheduler, latents, 1.0, 0.0, 0.8, rng, resume=resume))

    whole = rest(NoiseSource(3))
    for step in whole[:-1]:
        again = rest(NoiseSource(99), step.latents, step.state)
        assert np.array_equal(again[-1].latents, whole[-1].latents)


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_picture_is_shown_to_both_passes_and_kept(name: str) -> None:
    rng = np.random.default_rng(0)
    picture, noise = rng.standard_normal((2, *SHAPE), np.float32)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., 2:] = 1
    run = part_of_run(name, NoiseSchedule(), "epsilon", 5, "normal")
    assert run is not None
    run.kept = KeptPicture(picture, noise, mask)
    shown: list[np.ndarray] = []

    def denoiser(latents: np.ndarray, timestep: float, conditioning: float) -> np.ndarray:
        shown.append(latents)
        return told_apart(latents, timestep, conditioning)

    start = picture + np.float32(run.init_noise_sigma) * noise
    *_, last = sample(denoiser, run, start, 1.0, 0.0, 0.8, NoiseSource(0))
    np.testing.assert_allclose(last.latents[..., :2], picture[..., :2], atol=1e-5)
    assert np.abs(last.latents[..., 2:] - picture[..., 2:]).min() > 1e-3
    sigma = float(run.sigmas[0])
    expected = ((picture + sigma * noise) / np.hypot(sigma, 1))[..., :2]
    for first in shown[:2]:
        np.testing.assert_allclose(first[..., :2], expected, rtol=1e-4, atol=1e-5)
