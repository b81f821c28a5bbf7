"""Sampling taken apart: a sampler, noise levels of one's own, and the loop over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...diffusion.sampler import SamplerState
from ...diffusion.schedulers import on_sigmas
from ...diffusion.schedules import alphas_cumprod, sigmas_of
from ...diffusion.sigma_schedules import (
    exponential_between,
    karras_between,
    sd_turbo_sigmas,
    tail_sigmas,
)
from ...workflow.bounds import bound_problems
from ...workflow.declare import BOOLEAN, CONDITIONING, FLOAT, INT, LATENT, MODEL, Input
from ...workflow.declare import SAMPLER as SAMPLER_TYPE
from ...workflow.declare import SIGMAS as SIGMAS_TYPE
from ..request import noise_schedule
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, NodeWork, refuse
from .sampling import CFG, SAMPLER, SCHEDULE, SEED, STEPS, denoise, other_noise

PART = Input(FLOAT, 1.0, 0.0, 1.0, optional=True)  # older files lack it
SIGMA_MAX = Input(FLOAT, 14.614642, 0.0, 5000.0)
SIGMA_MIN = Input(FLOAT, 0.0291675, 0.0, 5000.0)


class KSamplerSelect(Node):
    """A sampler by name."""

    INPUTS = {"sampler_name": SAMPLER}
    OUTPUTS = (SAMPLER_TYPE,)

    def remarks(self, values: dict[str, Any]) -> Iterator[str]:
        yield from other_noise(values)

    def run(self, bench: Workbench, sampler_name: str) -> tuple[Any, ...]:
        return (sampler_name,)


class _Levels(Node):
    """Noise levels: (steps + 1,) float64, falling to 0."""

    OUTPUTS = (SIGMAS_TYPE,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)
        high, low = values.get("sigma_max", 1.0), values.get("sigma_min", 0.5)
        if not high > low > 0:
            yield "sigma_max", f"{high:g} must be above sigma_min ({low:g}), and that above 0"


class BasicScheduler(_Levels):
    """One of the named schedules, over the levels that the pack was trained with."""

    INPUTS = {
        "model": Input(MODEL),
        "scheduler": SCHEDULE,
        "steps": STEPS,
        "denoise": PART,
    }

    def run(
        self, bench: Workbench, model: Stages, scheduler: str, steps: int, denoise: float = 1.0
    ) -> tuple[Any, ...]:
        try:
            return (tail_sigmas(scheduler, _trained(model), steps, denoise),)
        except ValueError as err:
            raise refuse("steps", steps, f"do not fit this denoise: {err}") from None


class KarrasScheduler(_Levels):
    """Crowded at the clean end."""

    INPUTS = {
        "steps": STEPS,
        "sigma_max": SIGMA_MAX,
        "sigma_min": SIGMA_MIN,
        "rho": Input(FLOAT, 7.0, 0.0, 100.0),
    }

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().check(bench, values)
        if values.get("rho", 1.0) == 0:
            yield "rho", "0 is not allowed: the levels are its powers"

    def run(
        self, bench: Workbench, steps: int, sigma_max: float, sigma_min: float, rho: float
    ) -> tuple[Any, ...]:
        return (np.append(karras_between(sigma_max, sigma_min, steps, rho), 0.0),)


class ExponentialScheduler(_Levels):
    """Evenly spaced in log sigma."""

    INPUTS = {"steps": STEPS, "sigma_max": SIGMA_MAX, "sigma_min": SIGMA_MIN}

    def run(self, bench: Workbench, steps: int, sigma_max: float, sigma_min: float) -> tuple[Any, ...]:
        return (np.append(exponential_between(sigma_max, sigma_min, steps), 0.0),)


class SDTurboScheduler(_Levels):
    """The levels that SD-Turbo and SDXL-Turbo were distilled for."""

    INPUTS = {
        "model": Input(MODEL),
        "steps": Input(INT, 1, 1, 10),
        "denoise": PART,
    }

    def run(self, bench: Workbench, model: Stages, steps: int, denoise: float = 1.0) -> tuple[Any, ...]:
        return (sd_turbo_sigmas(_trained(model), steps, denoise),)


class SamplerCustom(Node):
    """The denoising loop over levels of one's own; the second output is what the last step saw."""

    INPUTS = {
        "model": Input(MODEL),
        "add_noise": Input(BOOLEAN, True),
        "noise_seed": SEED,
        "cfg": CFG,
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "sampler": Input(SAMPLER_TYPE),
        "sigmas": Input(SIGMAS_TYPE),
        "latent_image": Input(LATENT),
    }
    OUTPUTS = (LATENT, LATENT)

    def planned_steps(self, values: dict[str, Any]) -> int:
        """Of its own values there are none; those of its sampler and levels may be added."""
        return int(values.get("steps", 0))

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        manifest = inputs["model"].pack.manifest
        try:
            run = on_sigmas(
                inputs["sampler"], noise_schedule(manifest), manifest.prediction_type, inputs["sigmas"]
            )
        except ValueError as err:
            raise refuse("sigmas", None, str(err)) from None
        return (yield from denoise(run, inputs, inputs["noise_seed"], inputs["add_noise"], resume))


def _trained(model: Stages) -> np.ndarray:
    """(n,) float64: the pack's noise levels by timestep."""
    return sigmas_of(alphas_cumprod(noise_schedule(model.pack.manifest)))
