"""Which noise levels a run visits: ComfyUI's schedules, by its names.

Each takes the sigmas a checkpoint was trained with and picks or spaces the levels of a run, down to 0. Some
visit more or fewer levels than asked, as there: whoever counts steps counts what comes out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .beta_quantile import beta_quantile
from .schedules import check_steps

KARRAS_RHO = 7.0
BETA_SHAPE = 0.6
WHOLE_RUN = 0.9999
TURBO_LEVELS = 10

Spacing = Callable[[np.ndarray, int], np.ndarray]
"""(trained sigmas, steps) -> levels, descending, without the final 0."""


def normal_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Evenly spaced timesteps from the noisiest to the cleanest, both visited."""
    return _sigma_at(trained, np.linspace(len(trained) - 1, 0, steps))


def sgm_uniform_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Evenly spaced timesteps from the noisiest on; the cleanest is where the run would end, and left out."""
    return _sigma_at(trained, np.linspace(len(trained) - 1, 0, steps + 1)[:-1])


def simple_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Every len / steps-th trained sigma, counted from the noisiest."""
    stride = len(trained) / steps
    return trained[[-1 - int(k * stride) for k in range(steps)]]


def ddim_uniform_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Every len // steps-th trained sigma, counted from the second cleanest (Song et al. 2021,
    arXiv:2010.02502, section D.2): the noisiest is seldom among them, and there may be more than `steps`."""
    return trained[1 :: max(len(trained) // steps, 1)][::-1]


def karras_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Levels that crowd at the clean end (Karras et al. 2022, arXiv:2206.00364, eq. 5, rho 7)."""
    return karras_between(trained[-1], trained[0], steps)


def karras_between(high: float, low: float, steps: int, rho: float = KARRAS_RHO) -> np.ndarray:
    """The same between bounds of one's own: (steps,) float64, without the final 0; rho > 0."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho


def exponential_sigmas(trained: np.ndarray, steps: int) -> np.ndarray:
    """Levels evenly spaced in log sigma, as Lu et al. 2022, arXiv:2206.00927, advise."""
    return exponential_between(trained[-1], trained[0], steps)


def exponential_between(high: float, low: float, steps: int) -> np.ndarray:
    """The same between bounds of one's own, both > 0: (steps,) float64, without the final 0."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def polyexponential_between(high: float, low: float, steps: int, rho: float) -> np.ndarray:
    """Even in log sigma for a rho of 1, crowded at the clean end above (k-diffusion's
    get_sigmas_polyexponential): (steps,) float64, without the final 0."""
    return np.exp(np.log(low) + np.linspace(1, 0, steps) ** rho * np.log(high / low))


def variance_preserving_sigmas(steps: int, beta_d: float, beta_min: float, last: float) -> np.ndarray:
    """Levels evenly spaced in a process's time, from 1 down to `last`: (steps,) float64, without the final 0.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 33, as k-diffusion's get_sigmas_vp.
    """
    t = np.linspace(1, last, steps)
    return np.sqrt(np.expm1(beta_d * t**2 / 2 + beta_min * t))


def sd_turbo_sigmas(trained: np.ndarray, steps: int, denoise: float = 1.0) -> np.ndarray:
    """Those of the ten levels that adversarial distillation trained (Sauer et al. 2023, arXiv:2311.17042),
    from the noisiest on: (n + 1,) float64 down to 0, n <= steps.

    Args:
        denoise: 0 to 1; of the ten, the first (1 - denoise) are left out.
    """
    distilled = trained[(np.arange(TURBO_LEVELS, 0, -1) * len(trained)) // TURBO_LEVELS - 1]
    start = TURBO_LEVELS - int(TURBO_LEVELS * denoise)
    return np.append(distilled[start : start + steps], 0.0)


def beta_sigmas(
    trained: np.ndarray, steps: int, alpha: float = BETA_SHAPE, beta: float = BETA_SHAPE
) -> np.ndarray:
    """Trained sigmas that crowd at both ends, by the beta distribution's quantiles (Lee et al. 2024,
    arXiv:2407.12173). A timestep asked for twice is visited once."""
    quantiles = beta_quantile(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
    indexes = np.rint(quantiles * (len(trained) - 1)).astype(int)
    return trained[indexes[np.append(True, np.diff(indexes) != 0)]]


SIGMA_SCHEDULES: dict[str, Spacing] = {
    "normal": normal_sigmas,
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "sgm_uniform": sgm_uniform_sigmas,
    "simple": simple_sigmas,
    "ddim_uniform": ddim_uniform_sigmas,
    "beta": beta_sigmas,
}


def run_sigmas(name: str, trained: np.ndarray, steps: int, drops_penultimate: bool = False) -> np.ndarray:
    """The noise levels of a run.

    Args:
        name: one of `SIGMA_SCHEDULES`.
        trained: (n,) float64, ascending: sigmas by timestep, from `schedules.sigmas_of`.
        steps: 1 to n, or n - 1 with `drops_penultimate`.
        drops_penultimate: space one level more and skip the last before 0, as ComfyUI does for some samplers.
    Returns:
        (steps + 1,) float64, strictly descending to 0; of other length where the schedule has it so.
    Raises:
        ValueError: an unknown name, or steps out of range.
    """
    if name not in SIGMA_SCHEDULES:
        raise ValueError(f"schedule is {name!r}; known are {', '.join(SIGMA_SCHEDULES)}")
    check_steps(steps, len(trained) - drops_penultimate)
    levels = SIGMA_SCHEDULES[name](trained, steps + drops_penultimate)
    return np.append(levels[:-1] if drops_penultimate and len(levels) > 1 else levels, 0.0)


def tail_sigmas(
    name: str, trained: np.ndarray, steps: int, denoise: float, drops_penultimate: bool = False
) -> np.ndarray:
    """The last `steps` of the steps / denoise that a whole run would make, as ComfyUI repaints a picture.

    Args:
        denoise: 0 to 1; above 0.9999 it is the whole run, 0 leaves nothing to do.
    Returns:
        (n + 1,) float64, or empty.
    Raises:
        ValueError: as `run_sigmas`; the whole run has more steps than the schedule allows.
    """
    if denoise <= 0:
        return np.empty(0)
    if denoise > WHOLE_RUN:
        return run_sigmas(name, trained, steps, drops_penultimate)
    return run_sigmas(name, trained, int(steps / denoise), drops_penultimate)[-(steps + 1) :]


def cut_sigmas(sigmas: np.ndarray, start: int, end: int, to_the_end: bool) -> np.ndarray:
    """The levels from step `start` to before step `end`; empty when nothing is left between them.

    Args:
        to_the_end: the last step goes to 0, whatever level it would stop at.
    """
    if end < len(sigmas) - 1:
        sigmas = sigmas[: end + 1].copy()
        if to_the_end:
            sigmas[-1] = 0.0
    return sigmas[start:] if start < len(sigmas) - 1 else np.empty(0)


def _sigma_at(trained: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Between two trained timesteps, log sigma is interpolated."""
    return np.exp(np.interp(timesteps, np.arange(len(trained)), np.log(trained)))
