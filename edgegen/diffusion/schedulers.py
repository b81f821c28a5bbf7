"""Schedulers: each owns its timesteps and noise levels and makes one denoising step.

A scheduler is a sampler's solver and a schedule of noise levels, both by ComfyUI's names. Without a
schedule the levels are the pack's own, spaced as diffusers spaces them for the scheduler of the same kind, so
that a picture made here is the picture made there; with one they are ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, isclose
from typing import Protocol

import numpy as np

from . import adams, cfg_pp, multistep, solvers
from .prediction import PREDICTION_TYPES, Draw, Predict, PredictBoth, StepOutput
from .schedules import NoiseSchedule, alphas_cumprod, check_steps, sigmas_of, spaced_timesteps
from .sigma_scheduler import SigmaScheduler, TimestepTable
from .sigma_schedules import SIGMA_SCHEDULES, cut_sigmas, run_sigmas, tail_sigmas
from .vp_schedulers import LCM_TRAINING_STEPS, DdimScheduler, LcmScheduler


class Scheduler(Protocol):
    """One denoising run. Make a new one for every picture: multistep ones remember.

    Attributes:
        timesteps: (steps,) float64, what the denoiser is told at the start of each step.
        init_noise_sigma: unit noise times this is where the run starts.
        uses_noise: `advance` draws fresh unit noise in steps before the last.
        sees_unguided: `advance` asks `predict_both`: guidance's second pass is needed at any scale.
        history: what the steps so far left for the next; put it back to go on with an interrupted run.
    """

    timesteps: np.ndarray
    init_noise_sigma: float
    uses_noise: bool
    sees_unguided: bool
    history: tuple[np.ndarray, ...]

    def advance(
        self,
        predict: Predict,
        latents: np.ndarray,
        i: int,
        draw: Draw,
        predict_both: PredictBoth | None = None,
    ) -> StepOutput:
        """From noise level i to i + 1, asking `predict` or `predict_both` up to three times; latents are
        float32. Without `predict_both` there is no guidance."""


@dataclass(frozen=True)
class Sampler:
    """What a sampler's name stands for.

    Attributes:
        solve: how it makes a step on sigmas.
        uses_noise: it adds fresh noise.
        sees_unguided: it looks at what guidance starts from, too.
        spaced_as_dpm: diffusers spaces its levels over steps + 1 points and starts from unit variance.
        has_unit_start: diffusers starts it from unit variance, too.
        drops_penultimate: ComfyUI skips the last level before 0.
    """

    solve: Callable[[solvers.Step], solvers.Moved]
    uses_noise: bool = False
    sees_unguided: bool = False
    spaced_as_dpm: bool = False
    has_unit_start: bool = False
    drops_penultimate: bool = False


SCHEDULERS: dict[str, Sampler] = {
    "euler": Sampler(solvers.euler),
    "euler_ancestral": Sampler(solvers.euler_ancestral, uses_noise=True),
    "heun": Sampler(solvers.heun),
    "dpm_2": Sampler(solvers.dpm_2, drops_penultimate=True),
    "dpm_2_ancestral": Sampler(solvers.dpm_2_ancestral, uses_noise=True, drops_penultimate=True),
    "lms": Sampler(adams.lms),
    "dpmpp_2s_ancestral": Sampler(solvers.dpmpp_2s_ancestral, uses_noise=True),
    "dpmpp_sde": Sampler(solvers.dpmpp_sde, uses_noise=True),
    "dpmpp_2m": Sampler(multistep.dpmpp_2m, spaced_as_dpm=True),
    "dpmpp_2m_sde": Sampler(multistep.dpmpp_2m_sde, uses_noise=True, spaced_as_dpm=True),
    "ddim": Sampler(solvers.euler),  # on sigmas DDIM is an Euler step
    "uni_pc": Sampler(multistep.uni_pc, spaced_as_dpm=True, drops_penultimate=True),
    "lcm": Sampler(solvers.lcm, uses_noise=True),
    "ipndm": Sampler(adams.ipndm),
    "uni_pc_bh2": Sampler(multistep.uni_pc_bh2, spaced_as_dpm=True, drops_penultimate=True),
    "dpmpp_3m_sde": Sampler(multistep.dpmpp_3m_sde, uses_noise=True, spaced_as_dpm=True),
    "ddpm": Sampler(solvers.euler_ancestral, uses_noise=True, has_unit_start=True),  # on sigmas the same
    "pndm": Sampler(adams.pndm, has_unit_start=True),
    "heunpp2": Sampler(solvers.heunpp2),
    "ipndm_v": Sampler(adams.ipndm_v),
    "deis": Sampler(adams.deis),
    "res_multistep": Sampler(multistep.res_multistep),
    "res_multistep_ancestral": Sampler(multistep.res_multistep_ancestral, uses_noise=True),
    "gradient_estimation": Sampler(adams.gradient_estimation),
    "euler_cfg_pp": Sampler(cfg_pp.euler_cfg_pp, sees_unguided=True),
    "euler_ancestral_cfg_pp": Sampler(cfg_pp.euler_ancestral_cfg_pp, uses_noise=True, sees_unguided=True),
    "dpmpp_2s_ancestral_cfg_pp": Sampler(
        cfg_pp.dpmpp_2s_ancestral_cfg_pp, uses_noise=True, sees_unguided=True
    ),
    "dpmpp_2m_cfg_pp": Sampler(cfg_pp.dpmpp_2m_cfg_pp, sees_unguided=True, spaced_as_dpm=True),
    "res_multistep_cfg_pp": Sampler(cfg_pp.res_multistep_cfg_pp, sees_unguided=True),
    "res_multistep_ancestral_cfg_pp": Sampler(
        cfg_pp.res_multistep_ancestral_cfg_pp, uses_noise=True, sees_unguided=True
    ),
    "gradient_estimation_cfg_pp": Sampler(cfg_pp.gradient_estimation_cfg_pp, sees_unguided=True),
}
GPU_NAMES = {f"{name}_gpu": name for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")}
"""ComfyUI's names for samplers whose noise comes from a graphics card: here it comes from the processor."""
SCHEDULERS |= {alias: SCHEDULERS[name] for alias, name in GPU_NAMES.items()}
_ON_THE_PACKS_TIMESTEPS: dict[str, Callable[[NoiseSchedule, str, int], Scheduler]] = {
    "ddim": DdimScheduler,
    "lcm": LcmScheduler,
}


def make_scheduler(
    name: str, schedule: NoiseSchedule, prediction_type: str, steps: int, levels: str | None = None
) -> Scheduler:
    """A scheduler for one run.

    Args:
        name: one of `SCHEDULERS`.
        schedule: what the checkpoint was trained with.
        prediction_type: what the denoiser returns: `epsilon`, `v_prediction` or `sample`.
        steps: 1 to `most_steps(name, schedule, levels)`.
        levels: one of `SIGMA_SCHEDULES`; None: the pack's own timesteps.
    Raises:
        ValueError: an unknown name or type, or steps out of range.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"sampler is {name!r}; known are {', '.join(SCHEDULERS)}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; known are {', '.join(PREDICTION_TYPES)}")
    if levels is not None and levels not in SIGMA_SCHEDULES:
        raise ValueError(f"schedule is {levels!r}; known are {', '.join(SIGMA_SCHEDULES)}")
    check_steps(steps, most_steps(name, schedule, levels))
    if levels is not None:
        return _on_levels(SCHEDULERS[name], schedule, prediction_type, steps, levels)
    if name in _ON_THE_PACKS_TIMESTEPS:
        return _ON_THE_PACKS_TIMESTEPS[name](schedule, prediction_type, steps)
    return _on_timesteps(SCHEDULERS[name], schedule, prediction_type, steps)


def most_steps(name: str, schedule: NoiseSchedule, levels: str | None = None) -> int:
    """The most steps a sampler can make with a schedule."""
    count = schedule.num_train_timesteps
    if levels is not None:
        return count - SCHEDULERS[name].drops_penultimate
    if name == "lcm":
        return min(LCM_TRAINING_STEPS, count)
    return count - SCHEDULERS[name].spaced_as_dpm


def needs_both_passes(name: str, guidance: float) -> bool:
    """Whether a run asks the denoiser what it sees without guidance."""
    return guidance != 1 or SCHEDULERS[name].sees_unguided


def _on_levels(
    sampler: Sampler, schedule: NoiseSchedule, prediction_type: str, steps: int, levels: str
) -> Scheduler:
    trained = sigmas_of(alphas_cumprod(schedule))
    sigmas = run_sigmas(levels, trained, steps, sampler.drops_penultimate)
    return _on_sigmas(sampler, trained, prediction_type, sigmas)


def part_of_run(
    name: str,
    schedule: NoiseSchedule,
    prediction_type: str,
    steps: int,
    levels: str,
    denoise: float = 1.0,
    start: int = 0,
    end: int = 10_000,
    to_the_end: bool = True,
) -> SigmaScheduler | None:
    """A scheduler for a part of a run, as ComfyUI cuts it; None when there is nothing to do.

    Args:
        denoise: see `tail_sigmas`; start, end, to_the_end: see `cut_sigmas`. The others as `make_scheduler`.
    """
    sampler = SCHEDULERS[name]
    trained = sigmas_of(alphas_cumprod(schedule))
    sigmas = tail_sigmas(levels, trained, steps, denoise, sampler.drops_penultimate)
    sigmas = cut_sigmas(sigmas, start, end, to_the_end)
    return _on_sigmas(sampler, trained, prediction_type, sigmas) if len(sigmas) > 1 else None


def on_sigmas(
    name: str, schedule: NoiseSchedule, prediction_type: str, sigmas: np.ndarray
) -> SigmaScheduler | None:
    """A scheduler over noise levels of one's own; None when there is nothing to do.

    Args:
        sigmas: (n + 1,) float64.
    Raises:
        ValueError: they do not fall with every step.
    """
    if len(sigmas) < 2:
        return None
    if not (np.isfinite(sigmas).all() and (np.diff(sigmas) < 0).all() and sigmas[-1] >= 0):
        raise ValueError("noise levels must fall with every step, down to 0 or above")
    trained = sigmas_of(alphas_cumprod(schedule))
    return _on_sigmas(SCHEDULERS[name], trained, prediction_type, sigmas)


def _on_sigmas(
    sampler: Sampler, trained: np.ndarray, prediction_type: str, sigmas: np.ndarray
) -> SigmaScheduler:
    first, highest = float(sigmas[0]), float(trained[-1])
    # from the noisiest level the start has the variance the denoiser was trained with, as in ComfyUI
    start = hypot(first, 1) if first > highest or isclose(first, highest, rel_tol=1e-5) else first
    table = TimestepTable(trained, {}, whole=True)
    return _run(sampler, sigmas, table, prediction_type, start)


def _on_timesteps(sampler: Sampler, schedule: NoiseSchedule, prediction_type: str, steps: int) -> Scheduler:
    trained = sigmas_of(alphas_cumprod(schedule))
    spaced = _dpm_timesteps if sampler.spaced_as_dpm else spaced_timesteps
    timesteps = spaced(schedule, steps)
    sigmas = np.append(np.interp(timesteps, np.arange(len(trained)), trained), 0.0)
    top_is_visited = schedule.timestep_spacing in ("linspace", "trailing")
    first = float(sigmas[0])
    has_unit_start = sampler.spaced_as_dpm or sampler.has_unit_start
    start = first if top_is_visited and not has_unit_start else hypot(first, 1)
    known = dict(zip(sigmas.tolist(), timesteps.tolist(), strict=False))
    table = TimestepTable(trained, known, whole=False)
    return _run(sampler, sigmas, table, prediction_type, start)


def _run(
    sampler: Sampler, sigmas: np.ndarray, table: TimestepTable, prediction_type: str, start: float
) -> SigmaScheduler:
    noise, unguided = sampler.uses_noise, sampler.sees_unguided
    return SigmaScheduler(sampler.solve, sigmas, table, prediction_type, start, noise, unguided)


def _dpm_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """(steps,) float64: diffusers spaces these solvers over steps + 1 points and leaves out the last."""
    if schedule.timestep_spacing == "trailing":
        return spaced_timesteps(schedule, steps)
    return np.round(spaced_timesteps(schedule, steps + 1))[:-1]
