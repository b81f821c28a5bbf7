"""The sampler: the denoising loop, as a generator. Progress, preview and cancel belong to its caller."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rng import NoiseSource
from .schedulers import Scheduler

Denoiser = Callable[[np.ndarray, float, Any], np.ndarray]
PairDenoiser = Callable[[np.ndarray, float, Any, Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SamplerStep:
    """What one step left behind.

    Attributes:
        index: steps done, 1 to total.
        latents, denoised: as in `StepOutput`; `denoised` is what a preview should decode.
    """

    index: int
    total: int
    latents: np.ndarray
    denoised: np.ndarray


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
) -> Generator[SamplerStep, None, None]:
    """Denoise, yielding after every step.

    Args:
        denoiser: (latents, timestep, conditioning) -> model output of the latents' shape.
        scheduler: a new one from `make_scheduler`.
        latents: (1, c, h, w) float32, unit noise times `scheduler.init_noise_sigma`.
        conditioning, unconditional: handed to the denoiser as they are.
        guidance_scale: 1 means no guidance: the second pass is never run, `unconditional` may be None.
        rng: noise for schedulers with `uses_noise`; go on with the source of the initial noise.
        pair: how to get both outputs at once; two passes of `denoiser` when None.
    Source of guidance: Ho & Salimans 2022, arXiv:2207.12598.
    """
    pair = pair or two_passes(denoiser)
    total = len(scheduler.timesteps)
    for i in range(total):
        timestep = float(scheduler.timesteps[i])
        model_input = scheduler.scale_model_input(latents, i)
        if guidance_scale == 1:
            model_output = denoiser(model_input, timestep, conditioning)
        else:
            wanted, plain = pair(model_input, timestep, conditioning, unconditional)
            model_output = plain + np.float32(guidance_scale) * (wanted - plain)
        out = scheduler.step(
            model_output, latents, i, _noise(scheduler, rng, latents, is_last=i + 1 == total)
        )
        latents = out.latents
        yield SamplerStep(i + 1, total, latents, out.denoised)


def _noise(
    scheduler: Scheduler, rng: NoiseSource | None, latents: np.ndarray, is_last: bool
) -> np.ndarray | None:
    if is_last or not scheduler.uses_noise:
        return None
    if rng is None:
        raise ValueError("this scheduler adds noise: hand the sampler a NoiseSource")
    return rng.normal(latents.shape)
