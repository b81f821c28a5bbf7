"""Sampling taken apart: a sampler by name, and the loop over noise levels of one's own.

Source: ComfyUI's comfy_extras/nodes_custom_sampler.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...diffusion.sampler import SamplerState
from ...diffusion.schedulers import SCHEDULERS, on_sigmas
from ...diffusion.sigma_scheduler import SigmaScheduler
from ...workflow.declare import BOOLEAN, CONDITIONING, LATENT, MODEL, Input
from ...workflow.declare import GUIDER as GUIDER_TYPE
from ...workflow.declare import NOISE as NOISE_TYPE
from ...workflow.declare import SAMPLER as SAMPLER_TYPE
from ...workflow.declare import SIGMAS as SIGMAS_TYPE
from ..request import noise_schedule
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, NodeWork, refuse
from .sampling import CFG, SAMPLER, SEED, denoise, other_noise


class KSamplerSelect(Node):
    """A sampler by name."""

    INPUTS = {"sampler_name": SAMPLER}
    OUTPUTS = (SAMPLER_TYPE,)

    def remarks(self, values: dict[str, Any]) -> Iterator[str]:
        yield from other_noise(values)

    def run(self, bench: Workbench, sampler_name: str) -> tuple[Any, ...]:
        return (sampler_name,)


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
        run = _run(inputs["model"], inputs["sampler"], inputs["sigmas"])
        return (yield from denoise(run, inputs, inputs["noise_seed"], inputs["add_noise"], resume))


class SamplerCustomAdvanced(Node):
    """The same with noise and guidance from nodes of their own."""

    INPUTS = {
        "noise": Input(NOISE_TYPE),
        "guider": Input(GUIDER_TYPE),
        "sampler": Input(SAMPLER_TYPE),
        "sigmas": Input(SIGMAS_TYPE),
        "latent_image": Input(LATENT),
    }
    OUTPUTS = (LATENT, LATENT)

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        noise, guider = inputs["noise"], inputs["guider"]
        if guider.negative is None and SCHEDULERS[inputs["sampler"]].sees_unguided:
            message = f"{inputs['sampler']} looks at what not to draw, too: take a CFGGuider"
            raise refuse("guider", None, message)
        run = _run(guider.stages, inputs["sampler"], inputs["sigmas"])
        asked = {
            "model": guider.stages,
            "positive": guider.positive,
            "negative": guider.negative,
            "cfg": guider.cfg,
            "latent_image": inputs["latent_image"],
        }
        return (yield from denoise(run, asked, noise.seed, not noise.is_silent, resume))


def _run(stages: Stages, sampler: str, sigmas: np.ndarray) -> SigmaScheduler | None:
    """None: nothing is left to do. Raises BadRequest: the levels do not fall."""
    manifest = stages.pack.manifest
    try:
        return on_sigmas(sampler, noise_schedule(manifest), manifest.prediction_type, sigmas)
    except ValueError as err:
        raise refuse("sigmas", None, str(err)) from None
