"""Solvers against what can be computed: pictures drawn from a normal distribution have an exact denoiser.

Everything is linear then, so noise can be followed as coordinates: the initial noise and every fresh one is
an axis of its own, and a variance is a sum of squares without any sampling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.diffusion import adams, solvers
from edgegen.diffusion.schedulers import SCHEDULERS, make_scheduler
from edgegen.diffusion.schedules import NoiseSchedule, alphas_cumprod, sigmas_of
from edgegen.diffusion.solvers import Step

GOLDEN = np.load(Path(__file__).parent / "golden.npz")
STD = 0.7  # of the pictures, around 0
MARGIN = 4  # levels before the start that history covers, and after the end that are never visited


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    return x * STD**2 / (STD**2 + sigma**2)


def flow(sigma: float) -> np.ndarray:
    """The exact solution through 1 at sigma 1."""
    return np.array([np.sqrt((STD**2 + sigma**2) / (STD**2 + 1))])


def slope(sigma: float) -> np.ndarray:
    return (flow(sigma) - denoise(flow(sigma), sigma)) / sigma


def seen(sigma: float) -> np.ndarray:
    return denoise(flow(sigma), sigma)


def exact_history(name: str, sigmas: np.ndarray, i: int) -> tuple[np.ndarray, ...]:
    """What a solver would remember had it come along the exact solution."""
    past = [float(s) for s in sigmas[:i][::-1]]
    return {
        "lms": tuple(slope(s) for s in past[:3]),
        "ipndm": tuple(slope(s) for s in past[:3]),
        "dpmpp_2m": (seen(past[0]),),
        "uni_pc": (flow(past[0]), *(seen(s) for s in past[:3])),
        "uni_pc_bh2": (flow(past[0]), *(seen(s) for s in past[:3])),
        "pndm": tuple(slope(s) for s in past[:3]),
        "ipndm_v": tuple(slope(s) for s in past[:3]),
        "deis": tuple(slope(s) for s in past[:2]),
        "res_multistep": (seen(past[0]),),
        "gradient_estimation": (slope(past[0]),),
    }.get(name.removesuffix("_cfg_pp"), ())


def error(name: str, steps: int, even_sigma: bool) -> float:
    """Relative distance from the exact flow after going from sigma 3 to 0.5."""
    h = 1 / steps
    u = np.arange(-MARGIN, steps + MARGIN + 1) * h
    sigmas = 3 - 2.5 * u if even_sigma else 3 * (0.5 / 3) ** u
    x, history = flow(sigmas[MARGIN]), exact_history(name, sigmas, MARGIN)
    levels = np.append(sigmas, 0.0)
    for i in range(MARGIN, MARGIN + steps):
        moved = SCHEDULERS[name].solve(Step(denoise, x, levels, i, history, _no_noise))
        x, history = moved.x, moved.history
    return float(np.abs(x / flow(sigmas[MARGIN + steps]) - 1).item())


def _no_noise() -> np.ndarray:
    raise AssertionError("a deterministic solver draws no noise")


@pytest.mark.parametrize(
    ("name", "order", "even_sigma"),
    [
        ("euler", 1, False),
        ("heun", 2, False),
        ("dpm_2", 2, False),
        ("dpmpp_2m", 2, False),
        ("uni_pc", 3, False),
        ("uni_pc_bh2", 3, False),
        ("pndm", 4, True),
        ("lms", 4, False),
        ("lms", 4, True),
        ("ipndm", 4, True),
        ("ipndm", 1, False),  # its weights are those of even steps
        ("ipndm_v", 3, True),  # the published weights of four slopes
        ("ipndm_v", 2, False),
        ("deis", 3, True),
        ("deis", 3, False),
        ("res_multistep", 2, False),
        ("gradient_estimation", 1, False),  # it overshoots on purpose
        ("heunpp2", 1, False),
        ("euler_cfg_pp", 1, False),
        ("dpmpp_2m_cfg_pp", 2, False),
        ("res_multistep_cfg_pp", 2, False),
        ("gradient_estimation_cfg_pp", 1, False),
    ],
)
def test_halving_the_step_divides_the_error_by_two_to_the_order(name, order, even_sigma) -> None:
    steps = 128 if name.startswith(("ipndm_v", "res_multistep")) else 32  # there errors of two orders cancel
    coarse, fine = error(name, steps, even_sigma), error(name, 2 * steps, even_sigma)
    assert np.log2(coarse / fine) > order - 0.35
    assert fine < 0.02**order * 20 if order < 4 else fine < 1e-5


@pytest.mark.parametrize(("start", "end"), [(14.6, 0.5), (10.0, 3.6), (3.0, 0.3)])
def test_dpmpp_2s_without_its_noise_agrees_with_diffusers(start: float, end: float) -> None:
    want, asked = GOLDEN[f"singlestep/{start}-{end}"], []

    def recorded(x: np.ndarray, sigma: float) -> np.ndarray:
        asked.append(x / np.hypot(sigma, 1))
        return x - sigma * GOLDEN["outputs"][len(asked) - 1]

    there = np.sqrt(start * end)  # an ancestral step goes below it, to `end`
    x, levels = want[0] * np.hypot(start, 1), np.array([start, there, 0])
    step = Step(recorded, x, levels, 0, (), lambda: np.zeros_like(x))
    moved = solvers.dpmpp_2s_ancestral(step)
    np.testing.assert_allclose(asked, want[:2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved.x / np.hypot(end, 1), want[2], rtol=1e-4, atol=1e-4)


class Axes:
    """Noise as coordinates: each draw is the next axis."""

    def __init__(self, count: int):
        self.count, self.used = count, 0

    def draw(self) -> np.ndarray:
        self.used += 1
        return np.eye(self.count)[self.used - 1]


def variance_error(name: str, steps: int) -> float:
    """How wrong the variance is at sigma 0.5, having started with the right one at sigma 3."""
    sigmas = np.append(3 * (0.5 / 3) ** (np.arange(steps + 2) / steps), 0.0)
    axes = Axes(2 * steps + 2)
    x, history = axes.draw() * np.hypot(STD, 3), ()
    for i in range(steps):
        moved = SCHEDULERS[name].solve(Step(denoise, x, sigmas, i, history, axes.draw))
        x, history = moved.x, moved.history
    assert axes.used > steps  # every step added noise
    return abs(float((x**2).sum()) / (STD**2 + 0.5**2) - 1)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("euler_ancestral", 1),
        ("dpm_2_ancestral", 2),
        ("dpmpp_2s_ancestral", 2),
        ("dpmpp_2m_sde", 2),
        ("dpmpp_3m_sde", 2),
        ("ddpm", 1),
        ("dpmpp_sde", 1),
        ("res_multistep_ancestral", 1),
        ("euler_ancestral_cfg_pp", 1),
        ("dpmpp_2s_ancestral_cfg_pp", 2),
        ("res_multistep_ancestral_cfg_pp", 1),
    ],
)
def test_stochastic_solvers_reach_the_right_distribution(name: str, order: int) -> None:
    coarse, fine = variance_error(name, 32), variance_error(name, 64)
    assert np.log2(coarse / fine) > order - 0.35
    assert fine < 0.05


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "lcm"])
@pytest.mark.parametrize("levels", [None, "karras"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_whole_run_makes_pictures_of_the_right_contrast(
    name: str, levels: str | None, zero_snr: bool
) -> None:
    schedule = NoiseSchedule(timestep_spacing="trailing", rescale_zero_terminal_snr=zero_snr)
    trained = sigmas_of(alphas_cumprod(schedule))
    scheduler = make_scheduler(name, schedule, "sample", 30, levels)
    axes = Axes(80)

    def predict(x_vp: np.ndarray, t: float) -> np.ndarray:
        sigma = float(np.exp(np.interp(t, np.arange(1000), np.log(trained))))
        return denoise(x_vp * np.hypot(sigma, 1), sigma)

    x = (axes.draw() * scheduler.init_noise_sigma).astype(np.float32)
    for i in range(len(scheduler.timesteps)):
        x = scheduler.advance(predict, x, i, axes.draw).latents
    # thirty steps are few, but a slope taken along a sigma of 4096 would be wrong a hundredfold
    assert float(np.sqrt((x**2).sum())) == pytest.approx(STD, rel=0.3)


def test_lms_weights_integrate_polynomials_exactly() -> None:
    points = np.array([5.0, 9.0, 30.0, 4096.0])
    weights = adams.lms_weights(points, 5.0, 2.0)
    for power in range(3):
        exact = (2.0 ** (power + 1) - 5.0 ** (power + 1)) / (power + 1)
        assert np.dot(weights, points**power) == pytest.approx(exact, rel=1e-6)


def test_ancestral_levels_keep_the_variance() -> None:
    down, up = solvers.ancestral_levels(10.0, 4.0)
    assert (down**2 + up**2) == pytest.approx(16)
    assert 0 < down < 4
    assert solvers.ancestral_levels(10.0, 0.0) == (0, 0)


def test_the_noise_of_a_whole_sde_step_contains_that_of_its_first_half() -> None:
    axes, asked = Axes(2), []

    def watched(x: np.ndarray, sigma: float) -> np.ndarray:
        asked.append((x, sigma))
        return np.zeros(2)

    out = solvers.dpmpp_sde(Step(watched, np.zeros(2), np.array([4.0, 1.0, 0.0]), 0, (), axes.draw)).x
    first, whole = asked[1][0] / np.linalg.norm(asked[1][0]), out / np.linalg.norm(out)
    assert asked[1][1] == pytest.approx(2.0)
    assert np.dot(first, whole) == pytest.approx(np.sqrt((4 - 2) / (4 - 1)))  # of a Brownian path over sigma
