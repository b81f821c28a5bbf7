"""Noise levels of one's own: made, and cut in two. Source: ComfyUI's comfy_extras/nodes_custom_sampler.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...diffusion.schedules import alphas_cumprod, sigmas_of
from ...diffusion.sigma_schedules import (
    beta_sigmas,
    exponential_between,
    karras_between,
    polyexponential_between,
    sd_turbo_sigmas,
    tail_sigmas,
    variance_preserving_sigmas,
)
from ...workflow.bounds import bound_problems
from ...workflow.declare import FLOAT, INT, MODEL, Input
from ...workflow.declare import SIGMAS as SIGMAS_TYPE
from ..request import noise_schedule
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, refuse
from .sampling import SCHEDULE, STEPS

PART = Input(FLOAT, 1.0, 0.0, 1.0, optional=True)  # older files lack it
SIGMA_MAX = Input(FLOAT, 14.614642, 0.0, 5000.0)
SIGMA_MIN = Input(FLOAT, 0.0291675, 0.0, 5000.0)


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


class PolyexponentialScheduler(_Levels):
    """Evenly spaced in log sigma to the power of 1 / rho."""

    INPUTS = {
        "steps": STEPS,
        "sigma_max": SIGMA_MAX,
        "sigma_min": SIGMA_MIN,
        "rho": Input(FLOAT, 1.0, 0.0, 100.0),
    }

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().check(bench, values)
        if values.get("rho", 1.0) == 0:
            yield "rho", "0 is not allowed: all levels would be one"

    def run(
        self, bench: Workbench, steps: int, sigma_max: float, sigma_min: float, rho: float
    ) -> tuple[Any, ...]:
        return (np.append(polyexponential_between(sigma_max, sigma_min, steps, rho), 0.0),)


class VPScheduler(_Levels):
    """Evenly spaced in the time of a variance-preserving process."""

    INPUTS = {
        "steps": STEPS,
        "beta_d": Input(FLOAT, 19.9, 0.0, 5000.0),
        "beta_min": Input(FLOAT, 0.1, 0.0, 5000.0),
        "eps_s": Input(FLOAT, 0.001, 0.0, 1.0),
    }

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().check(bench, values)
        if values.get("beta_d", 1.0) == values.get("beta_min", 1.0) == 0:
            yield "beta_min", "0 is not allowed where beta_d is 0, too: there would be no noise"
        if values.get("eps_s", 0.5) in (0, 1):
            yield "eps_s", f"{values['eps_s']:g} is not allowed: the levels fall to it from 1, and then to 0"

    def run(
        self, bench: Workbench, steps: int, beta_d: float, beta_min: float, eps_s: float
    ) -> tuple[Any, ...]:
        return (np.append(variance_preserving_sigmas(steps, beta_d, beta_min, eps_s), 0.0),)


class BetaSamplingScheduler(_Levels):
    """The pack's levels by the quantiles of a beta distribution of one's own."""

    INPUTS = {
        "model": Input(MODEL),
        "steps": STEPS,
        "alpha": Input(FLOAT, 0.6, 0.0, 50.0),
        "beta": Input(FLOAT, 0.6, 0.0, 50.0),
    }

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().check(bench, values)
        for name in ("alpha", "beta"):
            if values.get(name, 1.0) == 0:
                yield name, "0 is not allowed: there is no such distribution"

    def run(self, bench: Workbench, model: Stages, steps: int, alpha: float, beta: float) -> tuple[Any, ...]:
        return (np.append(beta_sigmas(_trained(model), steps, alpha, beta), 0.0),)


class SplitSigmas(Node):
    """The levels up to a step, and those from there on."""

    INPUTS = {"sigmas": Input(SIGMAS_TYPE), "step": Input(INT, 0, 0, 10_000)}
    OUTPUTS = (SIGMAS_TYPE, SIGMAS_TYPE)

    def run(self, bench: Workbench, sigmas: np.ndarray, step: int) -> tuple[Any, ...]:
        return sigmas[: step + 1], sigmas[step:]


class SplitSigmasDenoise(Node):
    """The levels before the last share of the steps, and those of it."""

    INPUTS = {"sigmas": Input(SIGMAS_TYPE), "denoise": Input(FLOAT, 1.0, 0.0, 1.0)}
    OUTPUTS = (SIGMAS_TYPE, SIGMAS_TYPE)

    def run(self, bench: Workbench, sigmas: np.ndarray, denoise: float) -> tuple[Any, ...]:
        steps = round(max(len(sigmas) - 1, 0) * denoise)
        return sigmas[:-steps] if steps else sigmas[:0], sigmas[-(steps + 1) :]


def _trained(model: Stages) -> np.ndarray:
    """(n,) float64: the pack's noise levels by timestep."""
    return sigmas_of(alphas_cumprod(noise_schedule(model.pack.manifest)))
