"""From what somebody asked for to settings a pack can run."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ..diffusion.chunks import COMFYUI, SYNTAXES
from ..diffusion.prompt import clean_prompt
from ..diffusion.rng import MAX_SEED
from ..diffusion.schedulers import SCHEDULERS, most_steps
from ..diffusion.schedules import NoiseSchedule
from ..diffusion.sigma_schedules import SIGMA_SCHEDULES
from ..errors import BadRequest, Problem
from ..pack import Manifest, Pack
from ..settings import LimitSettings
from .lora.merge import LoraUse

NO_GUIDANCE = 1.0  # 0 counts as it: so the cards of distilled models call it


class RequestFields(Protocol):
    """What a request has to say; None means the pack's default. A job's request is one."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def guidance(self) -> float | None: ...
    @property
    def width(self) -> int | None: ...
    @property
    def height(self) -> int | None: ...
    @property
    def sampler(self) -> str | None: ...
    @property
    def schedule(self) -> str | None: ...
    @property
    def prompt_syntax(self) -> str | None: ...


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that makes one picture what it is, resolved: same settings and pack, same pixels.

    Attributes:
        width, height: pixels.
        schedule: which noise levels the sampler visits; None: the pack's own timesteps.
        prompt_syntax: how weights are written in both prompts.
        loras: merged into the pack's weights for this picture.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int
    sampler: str
    schedule: str | None = None
    prompt_syntax: str = COMFYUI
    loras: tuple[LoraUse, ...] = ()


def random_seed() -> int:
    """A seed short enough to be typed again."""
    return secrets.randbelow(2**32)


def noise_schedule(manifest: Manifest) -> NoiseSchedule:
    """The manifest's part that is the schedule's."""
    return NoiseSchedule(
        beta_schedule=manifest.beta_schedule,
        beta_start=manifest.beta_start,
        beta_end=manifest.beta_end,
        num_train_timesteps=manifest.num_train_timesteps,
        rescale_zero_terminal_snr=manifest.rescale_zero_terminal_snr,
        timestep_spacing=manifest.timestep_spacing,
        steps_offset=manifest.steps_offset,
    )


def resolve_settings(
    pack: Pack, request: RequestFields, limits: LimitSettings, new_seed: Callable[[], int] = random_seed
) -> GenerationSettings:
    """Fill in the pack's defaults and check every range.

    Raises:
        BadRequest: lists every problem, each with its allowed range.
    """
    defaults = pack.manifest.defaults
    settings = GenerationSettings(
        prompt=clean_prompt(request.prompt),
        negative_prompt=clean_prompt(request.negative_prompt),
        seed=new_seed() if request.seed is None else request.seed,
        steps=defaults.steps if request.steps is None else request.steps,
        guidance=float(defaults.guidance if request.guidance is None else request.guidance or NO_GUIDANCE),
        width=defaults.width if request.width is None else request.width,
        height=defaults.height if request.height is None else request.height,
        sampler=defaults.sampler if request.sampler is None else request.sampler,
        schedule=request.schedule,
        prompt_syntax=request.prompt_syntax or COMFYUI,
    )
    if problems := list(_problems(settings, pack.manifest, limits)):
        raise BadRequest(problems)
    return settings


def _problems(wanted: GenerationSettings, manifest: Manifest, limits: LimitSettings) -> Iterator[Problem]:
    for field in ("prompt", "negative_prompt"):
        text = getattr(wanted, field)
        if len(text) > limits.prompt_chars:
            yield Problem(
                field, text[:80], f"has {len(text)} characters; at most {limits.prompt_chars} are allowed"
            )
    if not wanted.prompt:
        yield Problem("prompt", wanted.prompt, "is empty; say what to draw")
    if not 0 <= wanted.seed <= MAX_SEED:
        yield Problem("seed", wanted.seed, f"{wanted.seed} is not allowed: 0 to {MAX_SEED}")
    if not (math.isfinite(wanted.guidance) and 1 <= wanted.guidance <= limits.guidance):
        yield Problem(
            "guidance", wanted.guidance, f"{wanted.guidance:g} is not allowed: 1 to {limits.guidance:g}"
        )
    if wanted.prompt_syntax not in SYNTAXES:
        known = ", ".join(SYNTAXES)
        yield Problem(
            "prompt_syntax", wanted.prompt_syntax, f"{wanted.prompt_syntax!r} is not known: {known}"
        )
    yield from _step_problems(wanted, manifest, limits)
    yield from _size_problems(wanted, manifest, limits)


def _step_problems(
    wanted: GenerationSettings, manifest: Manifest, limits: LimitSettings
) -> Iterator[Problem]:
    if wanted.sampler not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        yield Problem("sampler", wanted.sampler, f"{wanted.sampler!r} is not known: {known}")
        return
    if wanted.schedule is not None and wanted.schedule not in SIGMA_SCHEDULES:
        known = ", ".join(SIGMA_SCHEDULES)
        yield Problem("schedule", wanted.schedule, f"{wanted.schedule!r} is not known: {known}")
        return
    most = min(limits.steps, most_steps(wanted.sampler, noise_schedule(manifest), wanted.schedule))
    if not 1 <= wanted.steps <= most:
        message = f"{wanted.steps} is not allowed: 1 to {most} with sampler {wanted.sampler}"
        yield Problem("steps", wanted.steps, message)


def _size_problems(
    wanted: GenerationSettings, manifest: Manifest, limits: LimitSettings
) -> Iterator[Problem]:
    sizes = manifest.sizes
    allowed = sizes.model_copy(update={"max": max(sizes.min, min(sizes.max, limits.side))})
    for field in ("width", "height"):
        if message := allowed.problem_with(getattr(wanted, field)):
            yield Problem(field, getattr(wanted, field), f"{message} with pack {manifest.name}")
