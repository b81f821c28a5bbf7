"""The options that describe a picture, shared by `generate` and `queue add`, as a job request."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgegen.errors import BadRequest, Problem

from . import complete

if TYPE_CHECKING:
    from edgegen.engine.request import GenerationSettings
    from edgegen.jobs.job import JobRequest
    from edgegen.pack import Pack
    from edgegen.settings import LimitSettings

STDIN_MAX_BYTES = 1_000_000
SAMPLERS = (  # written out: their home in `settings` is slow to import
    "euler, euler_ancestral, heun, dpm_2, dpm_2_ancestral, lms, dpmpp_2s_ancestral, dpmpp_sde, dpmpp_2m, "
    "dpmpp_2m_sde, ddim, uni_pc, lcm, ipndm, uni_pc_bh2, dpmpp_3m_sde, ddpm, pndm, heunpp2, ipndm_v, "
    "deis, res_multistep, res_multistep_ancestral, gradient_estimation, euler_cfg_pp, "
    "euler_ancestral_cfg_pp, dpmpp_2s_ancestral_cfg_pp, dpmpp_2m_cfg_pp, res_multistep_cfg_pp, "
    "res_multistep_ancestral_cfg_pp, gradient_estimation_cfg_pp, dpmpp_sde_gpu, dpmpp_2m_sde_gpu, "
    "dpmpp_3m_sde_gpu"
)
SCHEDULES = "normal, karras, exponential, sgm_uniform, simple, ddim_uniform, beta"
PACKS_SAY = ("width", "height", "steps")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--pack",
        metavar="P",
        shell_complete=complete.packs,
        help="Pack to use. Default: engine.pack of the configuration.",
    ),
    click.option("--seed", type=int, metavar="N", help="Same seed, same picture. Default: random."),
    click.option("--steps", type=int, metavar="N", help="Denoising steps. Default: the pack's."),
    click.option(
        "--guidance", type=float, metavar="G", help="How strictly to obey the words; 1 is quickest."
    ),
    click.option("--size", metavar="WxH", help="Picture size in pixels, as in 256x256. Default: the pack's."),
    click.option(
        "--sampler", metavar="S", shell_complete=complete.samplers, help=f"{SAMPLERS}. Default: the pack's."
    ),
    click.option(
        "--schedule",
        metavar="S",
        shell_complete=complete.schedules,
        help=f"Noise levels to visit: {SCHEDULES}. Default: the pack's own timesteps.",
    ),
    click.option("--negative", metavar="TEXT", help="What the picture should not show."),
    click.option(
        "--prompt-syntax",
        metavar="S",
        help="How weights are written: comfyui, or a1111 with [less] and BREAK. Default: comfyui.",
    ),
)


def picture_options(command: Decorated) -> Decorated:
    """The options every command has that asks for a picture."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_prompt(prompt: str) -> str:
    """The prompt as given, or all of stdin for `-`.

    Raises:
        BadRequest: stdin is too long or not UTF-8.
    """
    if prompt != "-":
        return prompt
    data = sys.stdin.buffer.read(STDIN_MAX_BYTES + 1)
    if len(data) > STDIN_MAX_BYTES:
        raise BadRequest([Problem("prompt", None, f"stdin holds more than {STDIN_MAX_BYTES} bytes")])
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as err:
        raise BadRequest([Problem("prompt", None, f"stdin is not UTF-8 text (byte {err.start})")]) from None


def parse_size(text: str) -> tuple[int, int]:
    """`256x192` -> (256, 192): width, height in pixels.

    Raises:
        BadRequest: not two whole numbers.
    """
    width, _, height = text.lower().replace("×", "x").partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise BadRequest([Problem("size", text, f"{text} is no size; give WIDTHxHEIGHT, as in 256x256")])
    return int(width[:9]), int(height[:9])


def request_data(prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    """The command line's options under the names of a job request; what was not given is left out.

    Raises:
        BadRequest: the size is none, or stdin cannot be read as a prompt.
    """
    data = {"prompt": read_prompt(prompt), "negative_prompt": options.get("negative")}
    data["prompt_syntax"] = options.get("prompt_syntax")
    data |= {
        key: options.get(key)
        for key in ("pack", "seed", "steps", "guidance", "sampler", "schedule", "id", "priority")
    }
    if options.get("size"):
        data["width"], data["height"] = parse_size(options["size"])
    return {key: value for key, value in data.items() if value is not None}


def checked_request(data: dict[str, Any], limits: LimitSettings) -> JobRequest:
    """A request that passed the same checks as one from MQTT.

    Raises:
        BadRequest: with every problem at once.
    """
    import secrets

    from edgegen.jobs.job import parse_request

    return parse_request(data, limits, source="cli", new_id=lambda: secrets.token_hex(8))


def valid_request(data: dict[str, Any], pack: Pack, limits: LimitSettings) -> GenerationSettings:
    """The settings of one picture, checked as a request and against the pack.

    Raises:
        BadRequest: with every problem of both at once; of a size and the steps, what the pack says.
    """
    from edgegen.engine.request import resolve_settings
    from edgegen.jobs.job import JobRequest

    problems: dict[str, Problem] = {}
    try:
        checked_request(data, limits)
    except BadRequest as err:
        problems |= {problem.field: problem for problem in err.problems}
    try:
        settings = resolve_settings(pack, JobRequest(id="cli", **data), limits)
    except BadRequest as err:
        found = {problem.field: problem for problem in err.problems}
        problems = {**found, **problems, **{key: found[key] for key in PACKS_SAY if key in found}}
    if problems:
        raise BadRequest([problems[field] for field in sorted(problems)])
    return settings
