"""The samplers: the one denoising loop of `engine.stages`, over the part of a run that ComfyUI would take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from ...diffusion.masking import KeptPicture, fit_mask
from ...diffusion.rng import MAX_SEED, NoiseSource, noise_by_place
from ...diffusion.sampler import SamplerState
from ...diffusion.schedulers import GPU_NAMES, SCHEDULERS, part_of_run
from ...diffusion.sigma_scheduler import SigmaScheduler
from ...diffusion.sigma_schedules import SIGMA_SCHEDULES
from ...errors import BadRequest
from ...pack import Manifest
from ...workflow.bounds import bound_problems
from ...workflow.declare import COMBO, CONDITIONING, FLOAT, INT, LATENT, MODEL, Input
from ..areas import area_slices
from ..conditioning import Conditioning, placed, speaking
from ..control import CONTROLLED
from ..request import noise_schedule
from ..stages import Stages
from ..workbench import Workbench
from .base import Latents, Node, NodeWork, refuse

COMFYUI_MAX_SEED = 2**64 - 1
SAMPLER = Input(COMBO, choices=tuple(SCHEDULERS))
SCHEDULE = Input(COMBO, choices=tuple(SIGMA_SCHEDULES))
SEED = Input(INT, 0, 0, COMFYUI_MAX_SEED)
STEPS = Input(INT, 20, 1, 10_000)
CFG = Input(FLOAT, 8.0, 0.0, 100.0)
SWITCH = Input(COMBO, choices=("enable", "disable"))


class _Sampling(Node):
    OUTPUTS = (LATENT,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def remarks(self, values: dict[str, Any]) -> Iterator[str]:
        yield from other_noise(values)


class KSampler(_Sampling):
    """Noise, or a picture with noise, to latents."""

    INPUTS = {
        "model": Input(MODEL),
        "seed": SEED,
        "steps": STEPS,
        "cfg": CFG,
        "sampler_name": SAMPLER,
        "scheduler": SCHEDULE,
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "latent_image": Input(LATENT),
        "denoise": Input(FLOAT, 1.0, 0.0, 1.0),
    }

    def planned_steps(self, values: dict[str, Any]) -> int:
        return int(values["steps"])

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        run = _run(inputs, denoise=inputs["denoise"])
        return (yield from denoise(run, inputs, inputs["seed"], True, resume))[:1]


class KSamplerAdvanced(_Sampling):
    """The same over some of a run's steps; another one may go on where it stopped."""

    INPUTS = {
        "model": Input(MODEL),
        "add_noise": SWITCH,
        "noise_seed": SEED,
        "steps": STEPS,
        "cfg": CFG,
        "sampler_name": SAMPLER,
        "scheduler": SCHEDULE,
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "latent_image": Input(LATENT),
        "start_at_step": Input(INT, 0, 0, 10_000),
        "end_at_step": Input(INT, 10_000, 0, 10_000),
        "return_with_leftover_noise": SWITCH,
    }

    def planned_steps(self, values: dict[str, Any]) -> int:
        return max(0, min(values["end_at_step"], values["steps"]) - values["start_at_step"])

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        run = _run(
            inputs,
            start=inputs["start_at_step"],
            end=inputs["end_at_step"],
            to_the_end=inputs["return_with_leftover_noise"] == "disable",
        )
        adds_noise = inputs["add_noise"] == "enable"
        return (yield from denoise(run, inputs, inputs["noise_seed"], adds_noise, resume))[:1]


def other_noise(values: dict[str, Any]) -> Iterator[str]:
    """Of samplers whose noise on the way is not ComfyUI's."""
    name = values.get("sampler_name")
    if name in GPU_NAMES:
        yield f"{name} draws its noise on the processor here: its pictures differ from a graphics card's"
    elif name in GPU_NAMES.values():
        yield f"{name} draws its noise from another stream than ComfyUI's: its pictures differ from those"


def _run(inputs: dict[str, Any], **part: Any) -> SigmaScheduler | None:
    manifest = inputs["model"].pack.manifest
    name, levels = inputs["sampler_name"], inputs["scheduler"]
    try:
        return part_of_run(
            name, noise_schedule(manifest), manifest.prediction_type, inputs["steps"], levels, **part
        )
    except ValueError as err:
        raise refuse("steps", inputs["steps"], f"do not fit this denoise and sampler: {err}") from None


def denoise(
    run: SigmaScheduler | None,
    inputs: dict[str, Any],
    seed: int,
    adds_noise: bool,
    resume: SamplerState | None,
) -> NodeWork:
    """The loop of all samplers; its outputs are the latents, and what the last step saw.

    Args:
        run: None: nothing is left to do.
        inputs: model, positive, negative, cfg and latent_image of them.
    Raises:
        BadRequest: latents or areas do not fit the pack.
    """
    stages: Stages = inputs["model"]
    manifest = stages.pack.manifest
    start = fit_latents(inputs["latent_image"], manifest)
    if run is None:
        return start, start
    shape = start.samples.shape
    if inputs["cfg"] == 1 and not run.sees_unguided:
        inputs["negative"] = None  # never asked
    for name in ("positive", "negative") if inputs["negative"] is not None else ("positive",):
        inputs[name] = placed(inputs[name], shape[3], shape[2], manifest.latent_downscale)
        _check_areas(name, inputs[name], shape, manifest)
        _check_ranges(name, inputs[name], run, manifest)
        _check_controls(name, inputs[name], manifest)
    noise = _noise(seed, start) if adds_noise else np.zeros(shape, np.float32)
    picture = stages.scaled(start.scaled_for(manifest.latent_scale))
    if start.mask is not None:
        run.kept = KeptPicture(picture, noise, fit_mask(start.mask, shape[0], shape[3], shape[2]))
    latents = resume.latents if resume else noise * np.float32(run.init_noise_sigma) + picture
    rng = _stream(seed + 1)  # what ComfyUI on a CPU draws the steps' noise from
    prompts = inputs["positive"], inputs["negative"]
    steps = stages.denoise(run, latents, *prompts, inputs["cfg"], rng, resume=resume)
    denoised = latents
    with closing(steps):
        for step in steps:
            latents, denoised = step.latents, step.denoised
            yield step
    done = replace(start, scale=manifest.latent_scale)
    return tuple(replace(done, samples=stages.unscaled(found)) for found in (latents, denoised))


def _noise(seed: int, latents: Latents) -> np.ndarray:
    shape = latents.samples.shape
    if latents.places is None:
        return _stream(seed).normal(shape)
    return noise_by_place(seed & MAX_SEED, shape, latents.places)


def _stream(seed: int) -> NoiseSource:
    return NoiseSource(seed & MAX_SEED)  # torch's generator reads the lowest 32 bits only


def _check_areas(name: str, conditioning: Conditioning, shape: tuple[int, ...], manifest: Manifest) -> None:
    """Raises BadRequest for an area that lies outside the picture, or that the denoiser cannot halve."""
    side, multiple = manifest.latent_downscale, manifest.sizes.multiple // manifest.latent_downscale
    for area in (encoding.area for encoding in conditioning if encoding.area is not None):
        parts = area_slices(area, (shape[2], shape[3]), side)
        height, width = (part.stop - part.start for part in parts)
        if min(height, width) > 0 and height % multiple == 0 and width % multiple == 0:
            continue
        place = f"{area.width}x{area.height} at {area.x},{area.y}"
        message = (
            f"the area {place} of a picture of {shape[3] * side}x{shape[2] * side} is not allowed: it must "
            f"lie inside, its sides multiples of {manifest.sizes.multiple} with pack {manifest.name}"
        )
        raise refuse(name, place, message)


def _check_ranges(name: str, conditioning: Conditioning, run: SigmaScheduler, manifest: Manifest) -> None:
    """Raises BadRequest where no words count at all for a while: ComfyUI takes that for a grey picture."""
    whole = range(int(run.timesteps.min()), int(run.timesteps.max()) + 1)
    train = manifest.num_train_timesteps
    silent = [timestep for timestep in whole if not speaking(conditioning, timestep, train)]
    if silent:
        part = 1 - max(silent) / max(train - 1, 1)
        raise refuse(name, round(part, 3), f"nothing is said at {part:.3f} of the run: its parts leave a gap")


def no_control(pack: str) -> str:
    """Why a pack's denoiser cannot be led."""
    return (
        f"pack {pack} cannot be led by a ControlNet: it has no graph {CONTROLLED}; "
        "make it again with: python -m quantize ... --with-control"
    )


def _check_controls(name: str, conditioning: Conditioning, manifest: Manifest) -> None:
    """Raises BadRequest for a ControlNet that this denoiser cannot be led by."""
    for encoding in conditioning:
        for net in (control.net.component.manifest for control in encoding.controls):
            if CONTROLLED not in manifest.graphs:
                raise refuse(name, net.name, no_control(manifest.name))
            width = encoding.hidden.shape[-1]
            if net.words_width != width:
                both = f"{net.words_width} channels, those of pack {manifest.name} have {width}"
                raise refuse(name, net.name, f"{net.name} is of another family: it reads words of {both}")


def fit_latents(latents: Latents, manifest: Manifest) -> Latents:
    """Latents a pack can take; empty ones, made before it was known for which, get its shape.

    Raises BadRequest: another pack's, or a size that this pack cannot draw.
    """
    width, height = latents.size
    channels, side = manifest.latent_channels, manifest.latent_downscale
    problems = [problem for length in (width, height) if (problem := manifest.sizes.problem_with(length))]
    if problems:
        raise _refused(latents, f"{problems[0]} with pack {manifest.name}")
    if latents.samples.shape[1] == channels and latents.downscale == side:
        return latents
    if latents.samples.any():
        raise _refused(latents, f"these latents come from another pack than {manifest.name}")
    shape = (len(latents.samples), channels, height // side, width // side)
    return replace(latents, samples=np.zeros(shape, np.float32), downscale=side)


def _refused(latents: Latents, message: str) -> BadRequest:
    width, height = latents.size
    return refuse("latent_image", f"{width}x{height}", message)
