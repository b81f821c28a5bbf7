"""Solvers that look back along sigma: the slopes that earlier steps saw, integrated to the next level.

Latents, `Step` and `Moved` as in `solvers`. `history` holds the newest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .solvers import NO_SIGNAL, Moved, Step, toward

LMS_ORDER = 4
DEIS_ORDER = 3
# Adams-Bashforth weights for even steps, newest slope first (Liu et al. 2022, arXiv:2202.09778, eq. 12).
_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
# The variance-preserving process whose time DEIS interpolates over: ln(1 + sigma^2) = D t^2 / 2 + M t, with
# sigma 0.002 at t 0.001 and 80 at t 1 (Karras et al. 2022, arXiv:2206.00364, table 1 and appendix C.1).
_LOG_AT_START, _LOG_AT_END, _START = np.log1p(0.002**2), np.log1p(80.0**2), 1e-3
_BETA_D = 2 * (_LOG_AT_START / _START - _LOG_AT_END) / (_START - 1)
_BETA_MIN = _LOG_AT_END - _BETA_D / 2
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


def lms(step: Step) -> Moved:
    """Linear multistep of order 4: integrates the polynomial through the last slopes over sigma.

    Source: Adams-Bashforth with uneven steps, as k-diffusion's sample_lms.
    """
    denoised = step.look()
    slopes = ((step.x - denoised) / step.here, *step.history)[:LMS_ORDER]
    weights = lms_weights(step.sigmas[: step.i + 1][::-1][: len(slopes)], step.here, step.there)
    return Moved(step.x + weighted(weights, slopes), denoised, slopes)


def lms_weights(points: np.ndarray, here: float, there: float) -> list[float]:
    """Integrals from `here` to `there` of the Lagrange polynomials through `points`, exact."""
    found = []
    for k, point in enumerate(points):
        others = np.delete(points, k)
        # relative to `here`: powers of a sigma of 4096 would cancel
        basis = np.poly1d(np.poly(others - here)) / np.prod(point - others)
        found.append(float(np.polyint(basis)(there - here)))
    return found


def ipndm(step: Step) -> Moved:
    """Improved pseudo-numerical method of order 4 with the weights of even steps (Zhang & Chen 2023,
    arXiv:2204.13902; Liu et al. 2022, arXiv:2202.09778, eq. 12)."""
    denoised = step.look()
    slopes = ((step.x - denoised) / step.here, *step.history)[: len(_ADAMS_BASHFORTH)]
    if step.there == 0:
        return Moved(denoised, denoised, slopes)
    slope = weighted(_ADAMS_BASHFORTH[len(slopes) - 1], slopes)
    return Moved(step.x + (step.there - step.here) * slope, denoised, slopes)


def ipndm_v(step: Step) -> Moved:
    """The improved pseudo-numerical method with weights for uneven steps (Zhang & Chen 2023,
    arXiv:2204.13902, as in the code of Zhou et al. 2024, arXiv:2312.00094)."""
    denoised = step.look()
    slopes = ((step.x - denoised) / step.here, *step.history)[: len(_ADAMS_BASHFORTH)]
    if step.there == 0:
        return Moved(denoised, denoised, slopes)
    levels = step.sigmas[step.i + 1 - len(slopes) : step.i + 2][::-1]
    slope = weighted(ipndm_v_weights(list(levels[:-1] - levels[1:])), slopes)
    return Moved(step.x + (step.there - step.here) * slope, denoised, slopes)


def ipndm_v_weights(steps: Sequence[float]) -> list[float]:
    """Weights of as many slopes as there are steps, the newest first: up to 4, together about 1.

    Those of two slopes are exact. Of three and four they are the published code's, which is what others run:
    of third order for even steps and of second for others, as a product and a sign are not the method's.
    """
    weights = [1.0]
    if len(steps) == 1:
        return weights
    h, h_1 = steps[:2]
    weights = [1 + h / h_1 / 2, -h / h_1 / 2]
    if len(steps) == 2:
        return weights
    h_2 = steps[2]
    second = (1 - h**2 / (3 * h_1 * (h_1 + h_2))) / 2
    ratio = h_1 / h_2
    weights = _sums([*weights, 0.0], [second, -(1 + ratio) * second, ratio * second])
    if len(steps) == 3:
        return weights
    h_3 = steps[3]
    third = (1 - h / (3 * (h + h_1))) / 2 + (1 - h / (2 * (h + h_1))) * h / (6 * (h + h_1 + h_2))
    third *= h * (h + h_1) * (h + h_1 + h_2) / (h_1 * (h_1 + h_2) * (h_1 + h_2 + h_3))
    older = h_1 * (h_1 + h_2) / (h_2 * (h_2 + h_3))
    of_third = [1.0, -(1 + ratio + older), ratio + older * (1 + h_2 / h_3), -older * ratio]
    return _sums([*weights, 0.0], [third * part for part in of_third])


def _sums(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one + other for one, other in zip(ones, others, strict=True)]


def deis(step: Step) -> Moved:
    """Diffusion exponential integrator of order 3: integrates the polynomial through the last slopes over a
    process's time (Zhang & Chen 2023, arXiv:2204.13902, eq. 15, its variant tAB-DEIS)."""
    denoised = step.look()
    slopes = ((step.x - denoised) / step.here, *step.history)[:DEIS_ORDER]
    if step.there == 0 or len(slopes) == 1:
        return Moved(toward(step.x, denoised, step.here, step.there), denoised, slopes)
    weights = deis_weights(step.sigmas[: step.i + 1][::-1][: len(slopes)], step.here, step.there)
    return Moved(step.x + weighted(weights, slopes), denoised, slopes)


def deis_weights(points: np.ndarray, here: float, there: float) -> list[float]:
    """Integrals over sigma from `here` to `there` of the Lagrange polynomials through `points` in time."""
    low, high = np.log(there), np.log(here)
    sigmas = np.exp((low + high) / 2 + (high - low) / 2 * _NODES)  # the time is smooth in log sigma
    weights, times, known = (
        (low - high) / 2 * _NODE_WEIGHTS * sigmas,
        _process_time(sigmas),
        _process_time(points),
    )
    found = []
    for k, time in enumerate(known):
        others = np.delete(known, k)
        polynomial = np.prod((times[:, None] - others) / (time - others), axis=1)
        found.append(float(weights @ polynomial))
    return found


def _process_time(sigma: np.ndarray) -> np.ndarray:
    return (np.sqrt(_BETA_MIN**2 + 2 * _BETA_D * np.log1p(sigma**2)) - _BETA_MIN) / _BETA_D


def pndm(step: Step) -> Moved:
    """Pseudo linear multistep of order 4 whose first step looks twice, as Heun does (Liu et al. 2022,
    arXiv:2202.09778, eq. 12, without the Runge-Kutta steps at the start)."""
    denoised = step.look()
    slopes = ((step.x - denoised) / step.here, *step.history)[: len(_ADAMS_BASHFORTH)]
    slope = weighted(_ADAMS_BASHFORTH[len(slopes) - 1], slopes)
    if step.i == 0 and step.there > 0 and step.here < NO_SIGNAL:
        x = toward(step.x, denoised, step.here, step.there)
        slope = (slope + (x - step.denoise(x, step.there)) / step.there) / 2
    if step.here >= NO_SIGNAL:
        return Moved(toward(step.x, denoised, step.here, step.there), denoised, slopes)
    return Moved(step.x + (step.there - step.here) * slope, denoised, slopes)


def gradient_estimation(step: Step) -> Moved:
    """Euler steps along a slope that overshoots its last change twice over (Permenter & Yuan 2024,
    arXiv:2306.04848, alg. 2 with gamma 2)."""
    denoised = step.look()
    slope = (step.x - denoised) / step.here
    x = toward(step.x, denoised, step.here, step.there)
    if step.history and step.there > 0:
        x = x + (step.there - step.here) * (slope - step.history[0])
    return Moved(x, denoised, (slope,))


def weighted(weights: Sequence[float] | np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Their sum, each times its weight; as many weights as arrays."""
    total = np.zeros_like(arrays[0])
    for weight, array in zip(weights, arrays, strict=True):
        total = total + weight * array
    return total
