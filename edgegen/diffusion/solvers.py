"""Solvers of one step: from one noise level to the next, without memory.

Latents here are x = picture + sigma * noise, and a denoiser says the picture: x flows by
dx/dsigma = (x - denoised) / sigma (Karras et al. 2022, arXiv:2206.00364, eqs. 1 and 3). Every solver is a
function of a `Step` and returns a `Moved`; what it has to remember lies in `history`, so that a run can stop
and go on anywhere. All computing is in float64. An ancestral solver goes below the next level and adds fresh
noise up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .prediction import Draw

Levels = Callable[[float, float], tuple[float, float]]
"""(here, there) -> (the level to go to, the std of fresh noise added there)."""

NO_SIGNAL = 1000.0
"""Sigmas from here on stand for pure noise: solvers that would extrapolate along sigma make an Euler step."""


@dataclass(frozen=True)
class Step:
    """One step to make.

    Attributes:
        denoise: (x, sigma) -> the picture's latents, float64; second-order solvers call it twice.
        x: float64 latents at `here`.
        sigmas: (steps + 1,) float64, strictly descending to 0.
        i: which of them `x` is at, 0 to steps - 1.
        history: what the step before left in `Moved`; empty at the start of a run.
        draw: fresh unit noise.
        denoise_both: as `denoise`, and beside it the picture that guidance starts from; None: there is no
            guidance, both are one.
    """

    denoise: Callable[[np.ndarray, float], np.ndarray]
    x: np.ndarray
    sigmas: np.ndarray
    i: int
    history: tuple[np.ndarray, ...]
    draw: Draw
    denoise_both: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def here(self) -> float:
        return float(self.sigmas[self.i])

    @property
    def there(self) -> float:
        return float(self.sigmas[self.i + 1])

    def look(self) -> np.ndarray:
        """The picture as the denoiser sees it from here."""
        return self.denoise(self.x, self.here)

    def look_both(self) -> tuple[np.ndarray, np.ndarray]:
        """That picture, and the one seen without guidance."""
        if self.denoise_both is None:
            denoised = self.look()
            return denoised, denoised
        return self.denoise_both(self.x, self.here)


@dataclass(frozen=True)
class Moved:
    """Latents at the next level, the picture as predicted from the level left, and what to remember."""

    x: np.ndarray
    denoised: np.ndarray
    history: tuple[np.ndarray, ...] = ()


def toward(x: np.ndarray, denoised: np.ndarray, here: float, there: float) -> np.ndarray:
    """x moved along a straight line from sigma `here` to `there`: an Euler step.

    This is x + (there - here) * (x - denoised) / here, without the cancellation at a sigma of 4096, and it is
    DDIM (Song et al. 2021, arXiv:2010.02502, eq. 13).
    """
    return denoised + (x - denoised) * (there / here)


def ancestral_levels(here: float, there: float) -> tuple[float, float]:
    """(down, up): go to sigma `down`, then add noise of std `up`, so that down^2 + up^2 = there^2.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 7 (the posterior's variance), in sigmas.
    """
    return there**2 / here, there * float(np.sqrt(1 - (there / here) ** 2))


def straight_levels(here: float, there: float) -> tuple[float, float]:  # noqa: ARG001 (as `ancestral_levels`)
    """(down, up) of a step without fresh noise."""
    return there, 0.0


def euler(step: Step) -> Moved:
    """First order (Karras et al. 2022, alg. 1 without its correction)."""
    denoised = step.look()
    return Moved(toward(step.x, denoised, step.here, step.there), denoised)


def euler_ancestral(step: Step) -> Moved:
    """First order, with fresh noise."""
    denoised = step.look()
    down, up = ancestral_levels(step.here, step.there)
    return Moved(noisy(toward(step.x, denoised, step.here, down), up, step), denoised)


def heun(step: Step) -> Moved:
    """Second order, by the slopes at both ends (Karras et al. 2022, alg. 1)."""
    denoised = step.look()
    x = toward(step.x, denoised, step.here, step.there)
    if _is_first_order(step, step.there):
        return Moved(x, denoised)
    slope_here = (step.x - denoised) / step.here
    slope_there = (x - step.denoise(x, step.there)) / step.there
    x = step.x + (step.there - step.here) * (slope_here + slope_there) / 2
    return Moved(x, denoised)


def heunpp2(step: Step) -> Moved:
    """Heun with a third slope, one level further on, as sd-webui-samplers-scheduler's Heun++.

    Later slopes count for as much as their noise is of the run's first, so that it is of first order. The
    last step but one has two slopes, the last is Euler's.
    """
    denoised = step.look()
    x = toward(step.x, denoised, step.here, step.there)
    steps_left = len(step.sigmas) - 1 - step.i
    if steps_left == 1 or _is_first_order(step, step.there):
        return Moved(x, denoised)
    slopes, levels = [(step.x - denoised) / step.here], step.sigmas[step.i + 1 : step.i + min(steps_left, 3)]
    for i, level in enumerate(levels):
        slopes.append((x - step.denoise(x, float(level))) / level)
        if i + 1 < len(levels):
            x = x + (levels[i + 1] - level) * slopes[-1]
    weights = levels / (len(slopes) * step.sigmas[0])
    slope = slopes[0] * (1 - weights.sum())
    for weight, later in zip(weights, slopes[1:], strict=True):
        slope = slope + weight * later
    return Moved(step.x + (step.there - step.here) * slope, denoised)


def dpm_2(step: Step) -> Moved:
    """Second order, by the slope at the middle in log sigma (sample_dpm_2 of k-diffusion, after DPM-Solver-2,
    Lu et al. 2022, arXiv:2206.00927, alg. 1)."""
    denoised = step.look()
    return Moved(_by_the_middle(step, denoised, step.there), denoised)


def dpm_2_ancestral(step: Step) -> Moved:
    """`dpm_2` to a level below the next one, then fresh noise."""
    denoised = step.look()
    down, up = ancestral_levels(step.here, step.there)
    return Moved(noisy(_by_the_middle(step, denoised, down), up, step), denoised)


def dpmpp_2s_ancestral(step: Step) -> Moved:
    """DPM-Solver++(2S) with its middle at half the log SNR (Lu et al. 2022, arXiv:2211.01095, alg. 1, r 1/2),
    to a level below the next one, then fresh noise."""
    denoised = step.look()
    down, up = ancestral_levels(step.here, step.there)
    if step.there == 0:
        return Moved(denoised, denoised)
    middle = float(np.sqrt(step.here * down))
    seen_midway = step.denoise(toward(step.x, denoised, step.here, middle), middle)
    return Moved(noisy(toward(step.x, seen_midway, step.here, down), up, step), denoised)


def dpmpp_sde(step: Step) -> Moved:
    """The stochastic DPM-Solver++ in one step of two looks (Lu et al. 2022, arXiv:2211.01095), the second at
    half the log SNR, as k-diffusion's sample_dpmpp_sde.

    The noise of the whole step contains that of its first half, as in one Brownian path over sigma.
    """
    denoised = step.look()
    if step.there == 0:
        return Moved(denoised, denoised)
    middle = float(np.sqrt(step.here * step.there))
    first, whole = _brownian_pair(step, middle)
    down, up = ancestral_levels(step.here, middle)
    seen_midway = step.denoise(toward(step.x, denoised, step.here, down) + up * first, middle)
    down, up = ancestral_levels(step.here, step.there)
    return Moved(toward(step.x, seen_midway, step.here, down) + up * whole, denoised)


def lcm(step: Step) -> Moved:
    """Consistency sampling: straight to the picture, then noise of the next level (Luo et al. 2023,
    arXiv:2310.04378, alg. 3, whose boundary scaling is 1 but at the last timesteps)."""
    denoised = step.look()
    return Moved(noisy(denoised, step.there, step), denoised)


def _by_the_middle(step: Step, denoised: np.ndarray, target: float) -> np.ndarray:
    if _is_first_order(step, target):
        return toward(step.x, denoised, step.here, target)
    middle = float(np.sqrt(step.here * target))
    x = toward(step.x, denoised, step.here, middle)
    slope = (x - step.denoise(x, middle)) / middle
    return step.x + (target - step.here) * slope


def _is_first_order(step: Step, target: float) -> bool:
    """There is no slope at the picture itself, and from pure noise any is enlarged a hundredfold."""
    return target == 0 or step.here >= NO_SIGNAL


def noisy(x: np.ndarray, up: float, step: Step) -> np.ndarray:
    """x and fresh noise of std `up`; the picture itself gets none."""
    return x if up == 0 else x + up * step.draw()


def _brownian_pair(step: Step, middle: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit noises of a Brownian path from `here` to `middle`, and from `here` to `there`."""
    first, second = step.draw(), step.draw()
    part = (step.here - middle) / (step.here - step.there)
    return first, np.sqrt(part) * first + np.sqrt(1 - part) * second
