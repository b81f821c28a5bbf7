"""A solver at work on a denoiser: sigmas to timesteps, latents to what the denoiser was trained to see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .masking import KeptPicture
from .prediction import Draw, Predict, PredictBoth, StepOutput, as_float32, predict_denoised
from .solvers import Moved, Step


class TimestepTable:
    """From sigma to timestep.

    Args:
        trained: (n,) float64 sigmas by timestep, ascending.
        known: sigmas whose timestep is settled, as a run's own levels.
        whole: answer the nearest trained timestep, as ComfyUI does; else interpolate log sigma, as
            k-diffusion and diffusers do.
    """

    def __init__(self, trained: np.ndarray, known: dict[float, float], whole: bool):
        self._log_sigmas = np.log(trained)
        self._known = known
        self._whole = whole

    def timestep(self, sigma: float) -> float:
        """0 to n - 1; a sigma outside the trained ones has the nearest's timestep."""
        if sigma in self._known:
            return self._known[sigma]
        log_sigma = np.log(sigma)
        if self._whole:
            return float(np.abs(self._log_sigmas - log_sigma).argmin())
        return float(np.interp(log_sigma, self._log_sigmas, np.arange(len(self._log_sigmas))))


class SigmaScheduler:
    """One run of a solver over given noise levels; a `schedulers.Scheduler`.

    Args:
        solve: a function of `solvers` or `multistep`.
        sigmas: (steps + 1,) float64, strictly descending to 0.
        init_noise_sigma: unit noise times this is where the run starts.
        uses_noise: the solver draws.
        sees_unguided: it looks at what guidance starts from, too.
    Attributes:
        kept: a picture to paint over in parts only; None: the whole.
    """

    def __init__(
        self,
        solve: Callable[[Step], Moved],
        sigmas: np.ndarray,
        table: TimestepTable,
        prediction_type: str,
        init_noise_sigma: float,
        uses_noise: bool,
        sees_unguided: bool = False,
    ):
        self.sigmas = sigmas
        self.timesteps = np.array([table.timestep(float(sigma)) for sigma in sigmas[:-1]])
        self.init_noise_sigma = init_noise_sigma
        self.uses_noise = uses_noise
        self.sees_unguided = sees_unguided
        self.history: tuple[np.ndarray, ...] = ()
        self.kept: KeptPicture | None = None
        self._solve = solve
        self._table = table
        self._prediction_type = prediction_type

    def advance(
        self,
        predict: Predict,
        latents: np.ndarray,
        i: int,
        draw: Draw,
        predict_both: PredictBoth | None = None,
    ) -> StepOutput:
        def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
            shown = self._shown(x, sigma)
            return self._seen(self._picture(predict(*self._input(shown, sigma)), shown, sigma))

        both = None if predict_both is None else partial(self._denoise_both, predict_both)
        x = latents.astype(np.float64)
        moved = self._solve(Step(denoise, x, self.sigmas, i, self.history, draw, both))
        self.history = moved.history
        return StepOutput(as_float32(moved.x), as_float32(moved.denoised))

    def _denoise_both(
        self, predict_both: PredictBoth, x: np.ndarray, sigma: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The guided picture, and the unguided one as it is also where a picture is kept, as in ComfyUI."""
        shown = self._shown(x, sigma)
        outputs = predict_both(*self._input(shown, sigma))
        denoised, unguided = (self._picture(output, shown, sigma) for output in outputs)
        return self._seen(denoised), unguided

    def _shown(self, x: np.ndarray, sigma: float) -> np.ndarray:
        return x if self.kept is None else self.kept.shown(x, sigma)

    def _seen(self, denoised: np.ndarray) -> np.ndarray:
        return denoised if self.kept is None else self.kept.seen(denoised)

    def _input(self, x: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
        """What the denoiser is told; the latents' scaling is VP's (Karras et al. 2022, table 1)."""
        return as_float32(x / float(np.hypot(sigma, 1))), self._table.timestep(sigma)

    def _picture(self, output: np.ndarray, x: np.ndarray, sigma: float) -> np.ndarray:
        """The denoiser's picture, float64, by its output for these latents."""
        scale, output = float(np.hypot(sigma, 1)), output.astype(np.float64)
        if self._prediction_type == "epsilon":
            return x - sigma * output
        return predict_denoised(self._prediction_type, output, x / scale, 1 / scale, sigma / scale)
