"""What a denoiser says, turned into the picture's latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

Predict = Callable[[np.ndarray, float], np.ndarray]
"""(unit-variance latents, timestep) -> model output of the same shape, guidance applied."""

PredictBoth = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]
"""The same, and beside it the output that guidance starts from."""

Draw = Callable[[], np.ndarray]
"""Fresh unit noise of the latents' shape."""


@dataclass(frozen=True)
class StepOutput:
    """Latents after one step, and the picture's latents as predicted in it (float32, latents' shape)."""

    latents: np.ndarray
    denoised: np.ndarray


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


def as_float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float32)
