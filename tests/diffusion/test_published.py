"""Solvers that diffusers does not have, beside what was published of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from edgegen.diffusion import adams
from edgegen.diffusion.schedulers import SCHEDULERS
from edgegen.diffusion.solvers import Step, ancestral_levels

SIGMAS = np.array([14.6146, 9.7, 4.2, 1.3, 0.4, 0.0291675, 0.0])
START = np.linspace(-20, 20, 9)
# What the code of Zhou et al. 2024 (github.com/zju-pi/diff-sampler, diff-solvers-main) works out for these
# levels, newest slope first; deis by a sum over 10,000 points in float32.
IPNDM_V = {
    1: [1.5595572376185243, -0.5595572376185243],
    2: [1.7391660541815133, -1.2713382142755845, 0.5321721600940712],
    3: [1.6961853294272542, -1.0012453700908304, 0.3272170358026787, -0.010439306714077154],
    4: [1.727992486249216, -0.8940104955346196, 0.1681407800678357, -0.0012494310788393136],
}
DEIS = {
    1: [-10.809661865234375, 5.309610366821289],
    2: [-7.498798370361328, 10.808707237243652, -6.209964275360107],
    3: [-1.5761873722076416, 1.237438440322876, -0.5612577795982361],
    4: [-0.5449591279029846, 0.23187994956970215, -0.05775296688079834],
}


def picture(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.sin(x / (1 + sigma)) + 0.1 * sigma


def slope(x: np.ndarray, sigma: float) -> np.ndarray:
    return (x - picture(x, sigma)) / sigma


def walk(name: str, sigmas: np.ndarray = SIGMAS) -> list[np.ndarray]:
    """Latents after every step."""
    x, history, found, noise = START, (), [], np.random.default_rng(3)

    def draw() -> np.ndarray:
        return noise.standard_normal(START.shape)

    for i in range(len(sigmas) - 1):
        step = Step(picture, x, sigmas, i, history, draw)
        moved = SCHEDULERS[name].solve(step)
        x, history = moved.x, moved.history
        found.append(x)
    return found


@pytest.mark.parametrize(("i", "wanted"), IPNDM_V.items())
def test_ipndm_v_has_the_weights_of_the_published_code(i: int, wanted: list[float]) -> None:
    levels = SIGMAS[max(0, i - 3) : i + 2][::-1]
    np.testing.assert_allclose(adams.ipndm_v_weights(list(levels[:-1] - levels[1:])), wanted, rtol=1e-10)


def test_two_weights_of_ipndm_v_are_exact() -> None:
    exact = np.array(adams.lms_weights(SIGMAS[[1, 0]], SIGMAS[1], SIGMAS[2])) / (SIGMAS[2] - SIGMAS[1])
    np.testing.assert_allclose(IPNDM_V[1], exact, rtol=1e-10)


@pytest.mark.parametrize(("i", "wanted"), DEIS.items())
def test_deis_has_the_weights_of_the_published_code(i: int, wanted: list[float]) -> None:
    points = SIGMAS[: i + 1][::-1][:3]
    np.testing.assert_allclose(adams.deis_weights(points, SIGMAS[i], SIGMAS[i + 1]), wanted, rtol=1e-4)


@pytest.mark.parametrize("i", [1, 2, 3, 4])
def test_deis_weights_are_the_papers_integrals(i: int) -> None:
    """Equation 15 in the time of a process with linear beta, by another quadrature."""
    end = np.log1p(80.0**2)
    beta_d = 2 * (end - np.log1p(0.002**2) / 1e-3) / (1 - 1e-3)
    beta_min = end - beta_d / 2

    def time(sigma: float) -> float:
        return (np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigma**2)) - beta_min) / beta_d

    def sigma_by_time(t: float) -> float:
        """d sigma / dt"""
        raised = np.exp(beta_d * t**2 / 2 + beta_min * t)
        return (beta_d * t + beta_min) * raised / (2 * np.sqrt(raised - 1))

    points = SIGMAS[: i + 1][::-1][:3]
    times, here, there = [time(p) for p in points], time(SIGMAS[i]), time(SIGMAS[i + 1])

    def integrand(t: float, j: int) -> float:
        others = [k for k in range(len(times)) if k != j]
        basis = np.prod([(t - times[k]) / (times[j] - times[k]) for k in others])
        return float(basis * sigma_by_time(t))

    wanted = [quad(integrand, here, there, args=(j,), epsabs=1e-12)[0] for j in range(len(points))]
    np.testing.assert_allclose(adams.deis_weights(points, SIGMAS[i], SIGMAS[i + 1]), wanted, rtol=1e-7)
    assert sum(wanted) == pytest.approx(SIGMAS[i + 1] - SIGMAS[i])


@pytest.mark.parametrize("end", [0.0, 0.5])
def test_heunpp2_weighs_three_slopes_by_their_noise(end: float) -> None:
    """github.com/Carzit/sd-webui-samplers-scheduler, its Heun++: w = 3 sigma_0, w2 = sigma_1 / w, ..."""
    a, b, c, d = sigmas = np.array([10.0, 5.0, 2.0, end])
    x = START
    slopes = [slope(x, a)]
    x_2 = x + (b - a) * slopes[0]
    slopes.append(slope(x_2, b))
    x_3 = x_2 + (c - b) * slopes[1]
    slopes.append(slope(x_3, c))
    w_2, w_3 = b / (3 * a), c / (3 * a)
    first = x + (b - a) * ((1 - w_2 - w_3) * slopes[0] + w_2 * slopes[1] + w_3 * slopes[2])
    # the last step but one: two slopes, w = 2 sigma_0
    here = slope(first, b)
    there = slope(first + (c - b) * here, c)
    w_2 = c / (2 * a)
    second = first + (c - b) * ((1 - w_2) * here + w_2 * there)
    last = second + (d - c) * slope(second, c)
    np.testing.assert_allclose(walk("heunpp2", sigmas), [first, second, last], rtol=1e-10, atol=1e-12)


def test_gradient_estimation_doubles_the_change_of_the_slope() -> None:
    """Permenter & Yuan 2024, alg. 2: the average 2 eps_t - eps_(t+1), but at the ends."""
    x, before, wanted = START, None, []
    for here, there in pairwise(SIGMAS):
        now = slope(x, here)
        average = now if before is None or there == 0 else 2 * now - before
        x, before = x + (there - here) * average, now
        wanted.append(x)
    np.testing.assert_allclose(walk("gradient_estimation"), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["res_multistep", "res_multistep_ancestral"])
def test_the_refined_exponential_solver_meets_its_conditions_of_order(name: str) -> None:
    """Zhang et al. 2023: b_1 + b_2 = phi_1 and b_2 c_2 = phi_2, c_2 where it was seen before."""
    levels = ancestral_levels if "ancestral" in name else lambda here, there: (there, 0.0)
    noise, x, before, wanted = np.random.default_rng(3), START, None, []
    for i, (here, there) in enumerate(pairwise(SIGMAS)):
        seen = picture(x, here)
        down, up = levels(here, there)
        if before is None or there == 0:
            x = seen + (x - seen) * down / here
        else:
            h, back = np.log(here / down), np.log(SIGMAS[i - 1] / levels(SIGMAS[i - 1], here)[0])
            phi_1 = (1 - np.exp(-h)) / h
            phi_2 = (1 - phi_1) / h
            b_2 = phi_2 / (-back / h)
            x = np.exp(-h) * x + h * ((phi_1 - b_2) * seen + b_2 * before)
        x = x + (up * noise.standard_normal(x.shape) if up > 0 else 0)
        before = seen
        wanted.append(x)
    np.testing.assert_allclose(walk(name), wanted, rtol=1e-9)
