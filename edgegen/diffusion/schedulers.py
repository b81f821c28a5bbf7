"""Schedulers: each owns its timesteps and noise levels and makes one denoising step.

All agree with diffusers' schedulers of the same kind, so that a picture made here is the picture made
there. `a` below is alphas_cumprod: latents = sqrt(a) * picture + sqrt(1 - a) * noise, of unit variance.
The Euler family works on latents divided by sqrt(a), picture + sigma * noise (Karras et al. 2022).
"""

# One interface for all: not every scheduler needs every argument.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .schedules import NoiseSchedule, alphas_cumprod, check_steps, sigmas_of, spaced_timesteps, without_zero

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LCM_TRAINING_STEPS = 50
LCM_TIMESTEP_SCALING = 10.0
LCM_SIGMA_DATA = 0.5


@dataclass(frozen=True)
class StepOutput:
    """Latents after one step, and the picture's latents as predicted in it (float32, latents' shape)."""

    latents: np.ndarray
    denoised: np.ndarray


class Scheduler(Protocol):
    """One denoising run. Make a new one for every picture: multistep ones remember.

    Attributes:
        timesteps: (steps,) float64, what the denoiser is told.
        init_noise_sigma: unit noise times this is where the run starts.
        uses_noise: `step` wants fresh unit noise in all steps but the last.
    """

    timesteps: np.ndarray
    init_noise_sigma: float
    uses_noise: bool

    def scale_model_input(self, latents: np.ndarray, i: int) -> np.ndarray:
        """Latents as the denoiser was trained to see them."""

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        """From noise level i to i + 1; `model_output` and `latents` have the same shape."""


def predict_denoised(
    prediction_type: str, model_output: np.ndarray, latents: np.ndarray, alpha: float, sigma: float
) -> np.ndarray:
    """The picture's latents, given latents = alpha * picture + sigma * noise with alpha^2 + sigma^2 = 1.

    Source: Salimans & Ho 2022, arXiv:2202.00512, section 4 (v = alpha * noise - sigma * picture).
    """
    if prediction_type == "epsilon":
        return (latents - sigma * model_output) / alpha
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * model_output
    return model_output


class EulerScheduler:
    """Euler steps along the probability flow (Karras et al. 2022, arXiv:2206.00364, alg. 2, no churn)."""

    uses_noise = False

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        train_sigmas = sigmas_of(alphas_cumprod(schedule))
        self.timesteps = spaced_timesteps(schedule, steps)
        at_steps = np.interp(self.timesteps, np.arange(len(train_sigmas)), train_sigmas)
        self.sigmas = np.append(at_steps, 0.0)
        largest = float(self.sigmas.max())
        starts_at_the_top = schedule.timestep_spacing in ("linspace", "trailing")
        self.init_noise_sigma = largest if starts_at_the_top else float(np.hypot(largest, 1))
        self._prediction_type = prediction_type

    def scale_model_input(self, latents: np.ndarray, i: int) -> np.ndarray:
        return _float32(latents / np.hypot(self.sigmas[i], 1))

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        denoised = self._denoised(model_output, latents, i)
        # d + (x - d) * s'/s is x + (s' - s) * (x - d)/s without the cancellation at a sigma of 4096
        ratio = self.sigmas[i + 1] / self.sigmas[i]
        return StepOutput(_float32(denoised + (latents - denoised) * ratio), denoised)

    def _denoised(self, model_output: np.ndarray, latents: np.ndarray, i: int) -> np.ndarray:
        scale = float(np.hypot(self.sigmas[i], 1))
        sigma = float(self.sigmas[i])
        if self._prediction_type == "epsilon":
            return _float32(latents - sigma * model_output)
        vp = latents / scale
        return _float32(predict_denoised(self._prediction_type, model_output, vp, 1 / scale, sigma / scale))


class EulerAncestralScheduler(EulerScheduler):
    """Euler steps that go too far down and add fresh noise (k-diffusion's sample_euler_ancestral, eta 1)."""

    uses_noise = True

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        denoised = self._denoised(model_output, latents, i)
        here, there = float(self.sigmas[i]), float(self.sigmas[i + 1])
        up = np.sqrt(there**2 * (here**2 - there**2) / here**2)
        down = there**2 / here  # sqrt(there^2 - up^2)
        moved = denoised + (latents - denoised) * (down / here)
        if up > 0:
            moved = moved + up * _wanted(noise)
        return StepOutput(_float32(moved), denoised)


class _UnitVariance:
    """Schedulers whose latents have unit variance, just as the denoiser wants them."""

    init_noise_sigma = 1.0

    def scale_model_input(self, latents: np.ndarray, i: int) -> np.ndarray:
        return latents


class DdimScheduler(_UnitVariance):
    """Deterministic DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 with eta 0), ending at alpha 1.

    The previous level is num_train_timesteps // steps below the present one, as in diffusers, also where
    the spacing is not even; but there diffusers stops short of alpha 1 and leaves a little noise in.
    """

    uses_noise = False

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        cumprod = _safe_cumprod(schedule, prediction_type)
        indexes = np.round(spaced_timesteps(schedule, steps)).astype(int)
        before = indexes - schedule.num_train_timesteps // steps
        self.timesteps = indexes.astype(np.float64)
        self._a = cumprod[indexes]
        self._a_before = np.where(before >= 0, cumprod[before], 1.0)
        self._a_before[-1] = 1.0
        self._prediction_type = prediction_type

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        alpha, sigma = _alpha_sigma(self._a[i])
        alpha_before, sigma_before = _alpha_sigma(self._a_before[i])
        denoised = predict_denoised(self._prediction_type, model_output, latents, alpha, sigma)
        if self._prediction_type == "epsilon":
            noise_pred = model_output
        elif self._prediction_type == "v_prediction":
            noise_pred = alpha * model_output + sigma * latents
        else:
            noise_pred = (latents - alpha * denoised) / sigma
        return StepOutput(_float32(alpha_before * denoised + sigma_before * noise_pred), _float32(denoised))


class DpmSolverPlusPlus2M(_UnitVariance):
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv:2211.01095, alg. 2); ends are of order 1."""

    uses_noise = False

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        train_sigmas = sigmas_of(alphas_cumprod(schedule))
        self.timesteps = _dpm_timesteps(schedule, steps)
        sigmas = np.append(train_sigmas[self.timesteps.astype(int)], 0.0)
        self._alphas = 1 / np.hypot(sigmas, 1)
        self._sigmas = sigmas * self._alphas
        with np.errstate(divide="ignore"):
            self._lambdas = -np.log(sigmas)  # log SNR / 2; infinite at the picture itself
        self._prediction_type = prediction_type
        self._previous: tuple[int, np.ndarray] | None = None

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        alpha, sigma = float(self._alphas[i]), float(self._sigmas[i])
        denoised = _float32(predict_denoised(self._prediction_type, model_output, latents, alpha, sigma))
        target = denoised + self._correction(denoised, i)
        h = self._lambdas[i + 1] - self._lambdas[i]
        moved = (self._sigmas[i + 1] / sigma) * latents - self._alphas[i + 1] * np.expm1(-h) * target
        self._previous = (i, denoised)
        return StepOutput(_float32(moved), denoised)

    def _correction(self, denoised: np.ndarray, i: int) -> np.ndarray | float:
        """Half the slope of the prediction, from this step and the one before; 0 for order 1."""
        if self._previous is None or self._previous[0] != i - 1 or i + 1 == len(self.timesteps):
            return 0.0
        h = self._lambdas[i + 1] - self._lambdas[i]
        h_before = self._lambdas[i] - self._lambdas[i - 1]
        return 0.5 * (h / h_before) * (denoised - self._previous[1])


class LcmScheduler(_UnitVariance):
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378, alg. 3), for distilled denoisers.

    Timesteps come from the 50 of the distillation, whatever the pack's spacing.
    """

    uses_noise = True

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        count = schedule.num_train_timesteps
        training_steps = min(LCM_TRAINING_STEPS, count)
        check_steps(steps, training_steps)
        origin = (np.arange(1, training_steps + 1) * (count // training_steps) - 1)[::-1]
        picked = np.floor(np.linspace(0, training_steps, steps, endpoint=False)).astype(int)
        self.timesteps = origin[picked].astype(np.float64)
        self._a = _safe_cumprod(schedule, prediction_type)[origin[picked]]
        self._prediction_type = prediction_type

    def step(
        self, model_output: np.ndarray, latents: np.ndarray, i: int, noise: np.ndarray | None = None
    ) -> StepOutput:
        alpha, sigma = _alpha_sigma(self._a[i])
        predicted = predict_denoised(self._prediction_type, model_output, latents, alpha, sigma)
        scaled = self.timesteps[i] * LCM_TIMESTEP_SCALING
        c_skip = LCM_SIGMA_DATA**2 / (scaled**2 + LCM_SIGMA_DATA**2)
        c_out = scaled / np.hypot(scaled, LCM_SIGMA_DATA)
        denoised = _float32(c_out * predicted + c_skip * latents)
        if i + 1 == len(self.timesteps):
            return StepOutput(denoised, denoised)
        alpha_next, sigma_next = _alpha_sigma(self._a[i + 1])
        return StepOutput(_float32(alpha_next * denoised + sigma_next * _wanted(noise)), denoised)


SCHEDULERS: dict[str, Callable[[NoiseSchedule, str, int], Scheduler]] = {
    "euler": EulerScheduler,
    "euler_ancestral": EulerAncestralScheduler,
    "ddim": DdimScheduler,
    "dpmpp_2m": DpmSolverPlusPlus2M,
    "lcm": LcmScheduler,
}


def make_scheduler(name: str, schedule: NoiseSchedule, prediction_type: str, steps: int) -> Scheduler:
    """A scheduler for one run.

    Args:
        name: `euler`, `euler_ancestral`, `ddim`, `dpmpp_2m` or `lcm`.
        prediction_type: what the denoiser returns: `epsilon`, `v_prediction` or `sample`.
        steps: 1 to `most_steps(name, schedule)`.
    Raises:
        ValueError: an unknown name or type, or steps out of range.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"sampler is {name!r}; known are {', '.join(SCHEDULERS)}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; known are {', '.join(PREDICTION_TYPES)}")
    check_steps(steps, most_steps(name, schedule))
    return SCHEDULERS[name](schedule, prediction_type, steps)


def most_steps(name: str, schedule: NoiseSchedule) -> int:
    """The most steps a scheduler can make with a schedule."""
    count = schedule.num_train_timesteps
    if name == "lcm":
        return min(LCM_TRAINING_STEPS, count)
    return count - 1 if name == "dpmpp_2m" else count


def _dpm_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """(steps,) float64: diffusers spaces this solver over steps + 1 points and leaves out the last."""
    if schedule.timestep_spacing == "trailing":
        return spaced_timesteps(schedule, steps)
    return np.round(spaced_timesteps(schedule, steps + 1))[:-1]


def _safe_cumprod(schedule: NoiseSchedule, prediction_type: str) -> np.ndarray:
    """alphas_cumprod; without a zero where the prediction is divided by its root."""
    cumprod = alphas_cumprod(schedule)
    return without_zero(cumprod) if prediction_type == "epsilon" else cumprod


def _alpha_sigma(a: float) -> tuple[float, float]:
    return float(np.sqrt(a)), float(np.sqrt(1 - a))


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float32)


def _wanted(noise: np.ndarray | None) -> np.ndarray:
    if noise is None:
        raise ValueError("this scheduler needs fresh noise for every step but the last")
    return noise
