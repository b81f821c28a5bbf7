"""The sampler: the denoising loop, as a generator. Progress, preview and cancel belong to its caller."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .prediction import Draw, Predict, PredictBoth
from .rng import NoiseSource, NoiseState
from .schedulers import Scheduler

Denoiser = Callable[[np.ndarray, float, Any], np.ndarray]
PairDenoiser = Callable[[np.ndarray, float, Any, Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SamplerState:
    """All that the rest of a run depends on: `sample(..., resume=state)` makes the identical picture of it.

    Attributes:
        index: steps done.
        latents: (1, c, h, w) float32 after them.
        history: what the scheduler remembers; empty for most.
        noise: where the noise stream stands; None for a run without one.
    """

    index: int
    latents: np.ndarray
    history: tuple[np.ndarray, ...]
    noise: NoiseState | None


@dataclass(frozen=True)
class SamplerStep:
    """What one step left behind.

    Attributes:
        index: steps done, 1 to total.
        latents, denoised: as in `StepOutput`; `denoised` is what a preview should decode.
        state: where to go on from.
    """

    index: int
    total: int
    latents: np.ndarray
    denoised: np.ndarray
    state: SamplerState


def two_passes(denoiser: Denoiser) -> PairDenoiser:
    """Guidance as two calls of batch 1: half the memory of one call of batch 2."""

    def pair(
        latents: np.ndarray, timestep: float, conditioning: Any, unconditional: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        return denoiser(latents, timestep, conditioning), denoiser(latents, timestep, unconditional)

    return pair


def sample(
    denoiser: Denoiser,
    scheduler: Scheduler,
    latents: np.ndarray,
    conditioning: Any,
    unconditional: Any,
    guidance_scale: float,
    rng: NoiseSource | None = None,
    pair: PairDenoiser | None = None,
    resume: SamplerState | None = None,
) -> Generator[SamplerStep, None, None]:
    """Denoise, yielding after every step.

    Args:
        denoiser: (latents, timestep, conditioning) -> model output of the latents' shape.
        scheduler: a new one from `make_scheduler`.
        latents: (1, c, h, w) float32, unit noise times `scheduler.init_noise_sigma`; unused with `resume`.
        conditioning, unconditional: handed to the denoiser as they are.
        guidance_scale: 1 means no guidance: the second pass is run only for schedulers with `sees_unguided`,
            and never where `unconditional` is None.
        rng: noise for schedulers with `uses_noise`; go on with the source of the initial noise.
        pair: how to get both outputs at once; two passes of `denoiser` when None.
        resume: go on from here, everything else being as it was in the first run.
    Source of guidance: Ho & Salimans 2022, arXiv:2207.12598.
    """
    predict, predict_both = _guided(
        denoiser, pair or two_passes(denoiser), conditioning, unconditional, guidance_scale
    )
    first, total = 0, len(scheduler.timesteps)
    if resume is not None:
        first, latents, scheduler.history = resume.index, resume.latents, resume.history
        if rng is not None and resume.noise is not None:
            rng.restore(resume.noise)
    draw = _drawer(rng, latents.shape)
    for i in range(first, total):
        out = scheduler.advance(predict, latents, i, draw, predict_both)
        latents = out.latents
        state = SamplerState(i + 1, latents, scheduler.history, rng.state() if rng else None)
        yield SamplerStep(i + 1, total, latents, out.denoised, state)


def _guided(
    denoiser: Denoiser, pair: PairDenoiser, conditioning: Any, unconditional: Any, guidance_scale: float
) -> tuple[Predict, PredictBoth | None]:
    """The guided output alone, and with what guidance starts from; no second one without `unconditional`."""

    def predict_both(model_input: np.ndarray, timestep: float) -> tuple[np.ndarray, np.ndarray]:
        wanted, plain = pair(model_input, timestep, conditioning, unconditional)
        return plain + np.float32(guidance_scale) * (wanted - plain), plain

    def predict(model_input: np.ndarray, timestep: float) -> np.ndarray:
        if guidance_scale == 1:
            return denoiser(model_input, timestep, conditioning)
        return predict_both(model_input, timestep)[0]

    return predict, None if unconditional is None else predict_both


def _drawer(rng: NoiseSource | None, shape: tuple[int, ...]) -> Draw:
    def draw() -> np.ndarray:
        if rng is None:
            raise ValueError("this sampler adds noise: hand `sample` a NoiseSource")
        return rng.normal(shape)

    return draw
