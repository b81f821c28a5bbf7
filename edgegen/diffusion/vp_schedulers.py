"""Schedulers whose latents have unit variance, just as the denoiser wants them.

`a` below is alphas_cumprod: latents = sqrt(a) * picture + sqrt(1 - a) * noise. Unlike the schedulers that
work on sigmas, these start from pure noise (a = 0) without a stand-in for an infinite sigma.
"""

from __future__ import annotations

import numpy as np

from .prediction import Draw, Predict, PredictBoth, StepOutput, as_float32, predict_denoised
from .schedules import NoiseSchedule, alphas_cumprod, check_steps, spaced_timesteps, without_zero

LCM_TRAINING_STEPS = 50
LCM_TIMESTEP_SCALING = 10.0
LCM_SIGMA_DATA = 0.5


class DdimScheduler:
    """Deterministic DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 with eta 0), ending at alpha 1.

    The previous level is num_train_timesteps // steps below the present one, as in diffusers, also where
    the spacing is not even; but there diffusers stops short of alpha 1 and leaves a little noise in.
    """

    init_noise_sigma = 1.0
    uses_noise = False
    sees_unguided = False

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        cumprod = _safe_cumprod(schedule, prediction_type)
        indexes = np.round(spaced_timesteps(schedule, steps)).astype(int)
        before = indexes - schedule.num_train_timesteps // steps
        self.timesteps = indexes.astype(np.float64)
        self.history: tuple[np.ndarray, ...] = ()
        self._a = cumprod[indexes]
        self._a_before = np.where(before >= 0, cumprod[before], 1.0)
        self._a_before[-1] = 1.0
        self._prediction_type = prediction_type

    def advance(
        self,
        predict: Predict,
        latents: np.ndarray,
        i: int,
        draw: Draw,  # noqa: ARG002 (deterministic)
        predict_both: PredictBoth | None = None,  # noqa: ARG002 (never asked)
    ) -> StepOutput:
        alpha, sigma = _alpha_sigma(self._a[i])
        alpha_before, sigma_before = _alpha_sigma(self._a_before[i])
        model_output = predict(latents, float(self.timesteps[i]))
        denoised = predict_denoised(self._prediction_type, model_output, latents, alpha, sigma)
        if self._prediction_type == "epsilon":
            noise_pred = model_output
        elif self._prediction_type == "v_prediction":
            noise_pred = alpha * model_output + sigma * latents
        else:
            noise_pred = (latents - alpha * denoised) / sigma
        return StepOutput(
            as_float32(alpha_before * denoised + sigma_before * noise_pred), as_float32(denoised)
        )


class LcmScheduler:
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378, alg. 3), for distilled denoisers.

    Timesteps come from the 50 of the distillation, whatever the pack's spacing.
    """

    init_noise_sigma = 1.0
    uses_noise = True
    sees_unguided = False

    def __init__(self, schedule: NoiseSchedule, prediction_type: str, steps: int):
        count = schedule.num_train_timesteps
        training_steps = min(LCM_TRAINING_STEPS, count)
        check_steps(steps, training_steps)
        origin = (np.arange(1, training_steps + 1) * (count // training_steps) - 1)[::-1]
        picked = np.floor(np.linspace(0, training_steps, steps, endpoint=False)).astype(int)
        self.timesteps = origin[picked].astype(np.float64)
        self.history: tuple[np.ndarray, ...] = ()
        self._a = _safe_cumprod(schedule, prediction_type)[origin[picked]]
        self._prediction_type = prediction_type

    def advance(
        self,
        predict: Predict,
        latents: np.ndarray,
        i: int,
        draw: Draw,
        predict_both: PredictBoth | None = None,  # noqa: ARG002 (never asked)
    ) -> StepOutput:
        alpha, sigma = _alpha_sigma(self._a[i])
        model_output = predict(latents, float(self.timesteps[i]))
        predicted = predict_denoised(self._prediction_type, model_output, latents, alpha, sigma)
        scaled = self.timesteps[i] * LCM_TIMESTEP_SCALING
        c_skip = LCM_SIGMA_DATA**2 / (scaled**2 + LCM_SIGMA_DATA**2)
        c_out = scaled / np.hypot(scaled, LCM_SIGMA_DATA)
        denoised = as_float32(c_out * predicted + c_skip * latents)
        if i + 1 == len(self.timesteps):
            return StepOutput(denoised, denoised)
        alpha_next, sigma_next = _alpha_sigma(self._a[i + 1])
        return StepOutput(as_float32(alpha_next * denoised + sigma_next * draw()), denoised)


def _safe_cumprod(schedule: NoiseSchedule, prediction_type: str) -> np.ndarray:
    """alphas_cumprod; without a zero where the prediction is divided by its root."""
    cumprod = alphas_cumprod(schedule)
    return without_zero(cumprod) if prediction_type == "epsilon" else cumprod


def _alpha_sigma(a: float) -> tuple[float, float]:
    return float(np.sqrt(a)), float(np.sqrt(1 - a))
