"""What a sampler will ask the denoiser: its solver runs over nothing, so that timesteps are the real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..diffusion.schedulers import on_sigmas, part_of_run
from ..diffusion.sigma_scheduler import SigmaScheduler
from ..pack import Manifest
from ..workflow import CheckedNode, CheckedWorkflow, Link
from .control import speaks_in
from .nodes import CONTROL_NODES, NODES
from .request import noise_schedule
from .workbench import Workbench

CONDITIONINGS = ("conditioning_1", "conditioning_2", "conditioning", "conditioning_to")
SIDES = ("positive", "negative")


@dataclass(frozen=True)
class Speaker:
    """A ControlNet by its pack's name, and the part of the noise schedule it speaks in."""

    net: str
    start: float
    end: float


@dataclass(frozen=True)
class Told:
    """One of the encodings that a sampler gets; see `conditioning.Encoding`."""

    speakers: tuple[Speaker, ...] = ()
    speaks_to_both: bool = False
    start: float = 0.0
    end: float = 1.0


def asked_timesteps(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, manifest: Manifest
) -> list[float] | None:
    """What the denoiser is told at each look of one picture and encoding; None: shows only while it runs."""
    try:
        run = _scheduler(bench, checked, node, manifest)
    except (ValueError, KeyError, TypeError):  # a number that does not fit, or that another node works out
        return None
    if run is None:
        return []
    asked: list[float] = []

    def predict(model_input: np.ndarray, timestep: float) -> np.ndarray:
        asked.append(timestep)
        return np.zeros_like(model_input)

    latents = nothing = np.zeros((1, 1, 1, 1), np.float32)
    for i in range(len(run.timesteps)):
        latents = run.advance(predict, latents, i, lambda: nothing).latents
    return asked


def _scheduler(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, manifest: Manifest
) -> SigmaScheduler | None:
    schedule, values = noise_schedule(manifest), plain_values(node)
    if "sigmas" in node.inputs:  # a sampler taken apart
        sigmas = _levels(bench, checked, node.inputs["sigmas"], manifest)
        return on_sigmas(sampler_of(checked, node), schedule, manifest.prediction_type, sigmas)
    part: dict[str, Any] = {"denoise": values.get("denoise", 1.0)}
    if part["denoise"] <= 0:
        return None
    if "start_at_step" in node.inputs:
        part |= {"start": values["start_at_step"], "end": values["end_at_step"]}
        part["to_the_end"] = values["return_with_leftover_noise"] == "disable"
    names = values["sampler_name"], schedule, manifest.prediction_type, values["steps"], values["scheduler"]
    return part_of_run(*names, **part)


def _levels(bench: Workbench, checked: CheckedWorkflow, link: Link, manifest: Manifest) -> np.ndarray:
    """The noise levels that a link brings; nodes that make and cut them are quick to run."""
    node = checked.nodes[link.node]
    values = plain_values(node)
    if "model" in node.inputs:
        values["model"] = bench.stages(bench.pack_for(manifest.name))
    if isinstance(before := node.inputs.get("sigmas"), Link):
        values["sigmas"] = _levels(bench, checked, before, manifest)
    found: np.ndarray = NODES[node.class_type].run(bench, **values)[link.slot]
    return found


def sampler_of(checked: CheckedWorkflow, node: CheckedNode) -> str:
    """The sampler's name, its own or another node's."""
    link = node.inputs.get("sampler")
    return str((checked.nodes[link.node] if isinstance(link, Link) else node).inputs["sampler_name"])


def plain_values(node: CheckedNode) -> dict[str, Any]:
    """Its inputs that no other node works out."""
    return {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}


def told_by(bench: Workbench, checked: CheckedWorkflow, value: Any) -> list[Told]:
    """The encodings behind a sampler's link: combining adds them up, all else keeps their number."""
    if not isinstance(value, Link):
        return []
    node = checked.nodes[value.node]
    sources = [name for name in CONDITIONINGS if name in node.inputs]
    if "positive" in node.inputs and value.slot < len(SIDES):
        sources = [SIDES[value.slot]]
    found = [one for name in sources for one in told_by(bench, checked, node.inputs[name])] or [Told()]
    if node.class_type == "ConditioningSetTimestepRange":
        part = {name: value for name, value in plain_values(node).items() if name in ("start", "end")}
        return [replace(one, **part) for one in found]
    if node.class_type not in CONTROL_NODES or node.inputs.get("strength") == 0:
        return found
    speaker, both = _speaker(bench, checked, node), "conditioning" in node.inputs
    return [replace(one, speakers=(*one.speakers, speaker), speaks_to_both=both) for one in found]


def _speaker(bench: Workbench, checked: CheckedWorkflow, node: CheckedNode) -> Speaker:
    loader = checked.nodes[node.inputs["control_net"].node]
    net = bench.component_for("controlnet", loader.inputs["control_net_name"]).name
    values = plain_values(node)
    return Speaker(net, values.get("start_percent", 0.0), values.get("end_percent", 1.0))


def both_sides(positive: list[Told], negative: list[Told]) -> list[Told]:
    """All encodings that are looked with, as `conditioning.controlled_like` has it."""
    shared = next((one.speakers for one in positive if one.speakers and one.speaks_to_both), ())
    return [*positive, *(one if one.speakers else replace(one, speakers=shared) for one in negative)]


def looks_of(
    asked: Iterable[float], told: Iterable[Told], train_timesteps: int
) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """(whether the denoiser is led, the ControlNets that are asked) of every look."""
    encodings = list(told)
    for timestep in asked:
        for one in encodings:
            if not speaks_in(one.start, one.end, timestep, train_timesteps):
                continue
            heard = [s.net for s in one.speakers if speaks_in(s.start, s.end, timestep, train_timesteps)]
            yield bool(heard), tuple(heard)


def counted(looks: Iterable[tuple[bool, tuple[str, ...]]]) -> tuple[Counter[bool], Counter[str]]:
    """How often the denoiser works led and not, and how often each ControlNet does."""
    led: Counter[bool] = Counter()
    nets: Counter[str] = Counter()
    for is_led, heard in looks:
        led[is_led] += 1
        nets.update(heard)
    return led, nets
