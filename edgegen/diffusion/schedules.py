"""Noise schedules: how much picture is left at each training timestep, and which timesteps to visit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALMOST_ZERO = 2.0**-24  # diffusers' stand-in for a terminal SNR of zero, so that no sigma is infinite
MAX_BETA = 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    """What a checkpoint was trained with; field names and values are those of `pack.json`.

    Attributes:
        beta_schedule: `scaled_linear`, `linear` or `squaredcos_cap_v2`.
        beta_start, beta_end: first and last beta, 0 < start <= end < 1 (unused by `squaredcos_cap_v2`).
        num_train_timesteps: length of the training schedule.
        rescale_zero_terminal_snr: the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891).
        timestep_spacing: `leading`, `trailing` or `linspace` (the same paper, table 2).
        steps_offset: added to `leading` timesteps (Stable Diffusion 1.x: 1).
    """

    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    rescale_zero_terminal_snr: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 0


def betas(schedule: NoiseSchedule) -> np.ndarray:
    """(num_train_timesteps,) float64 in (0, 1), before any rescaling.

    Source: Ho et al. 2020 (linear), Rombach et al. 2022 (scaled_linear), Nichol & Dhariwal 2021 (cosine).
    """
    count, start, end = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        return np.linspace(start, end, count)
    if schedule.beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if schedule.beta_schedule == "squaredcos_cap_v2":
        t = np.arange(count + 1) / count
        alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)
    raise ValueError(
        f"beta_schedule is {schedule.beta_schedule!r}; known are scaled_linear, linear, squaredcos_cap_v2"
    )


def alphas_cumprod(schedule: NoiseSchedule) -> np.ndarray:
    """(num_train_timesteps,) float64, descending; the last is exactly 0 after zero-terminal-SNR rescaling."""
    plain = np.cumprod(1 - betas(schedule))
    return rescale_zero_terminal_snr(plain) if schedule.rescale_zero_terminal_snr else plain


def rescale_zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alphas_cumprod) so that the first stays and the last is 0.

    Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    roots = np.sqrt(alphas_cumprod)
    first, last = roots[0], roots[-1]
    return ((roots - last) * (first / (first - last))) ** 2


def sigmas_of(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Noise std relative to the signal, sqrt((1 - a) / a); a terminal zero counts as 2**-24."""
    safe = without_zero(alphas_cumprod)
    return np.sqrt((1 - safe) / safe)


def without_zero(alphas_cumprod: np.ndarray) -> np.ndarray:
    """The same, with 2**-24 for a terminal zero."""
    return np.where(alphas_cumprod == 0, ALMOST_ZERO, alphas_cumprod)


def spaced_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """(steps,) float64, descending: `linspace` may lie between training timesteps.

    Raises ValueError for an unknown spacing, or steps outside 1 to num_train_timesteps.
    Source: Lin et al. 2023, arXiv:2305.08891, table 2.
    """
    count = schedule.num_train_timesteps
    check_steps(steps, count)
    if schedule.timestep_spacing == "linspace":
        return np.linspace(0, count - 1, steps)[::-1].copy()
    if schedule.timestep_spacing == "leading":
        plain = np.arange(steps)[::-1] * float(count // steps)
        return plain + min(schedule.steps_offset, count - 1 - plain[0])  # never past the last timestep
    if schedule.timestep_spacing == "trailing":
        # as diffusers rounds (half to even): a different rounding is a different picture
        return np.round(count - np.arange(steps) * (count / steps)) - 1
    raise ValueError(
        f"timestep_spacing is {schedule.timestep_spacing!r}; known are leading, trailing, linspace"
    )


def check_steps(steps: int, most: int) -> None:
    """Raises ValueError unless 1 <= steps <= most."""
    if not 1 <= steps <= most:
        raise ValueError(f"steps is {steps}; allowed are 1 to {most}")
