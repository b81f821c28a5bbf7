"""What a workflow costs on this device: seconds by how fast its graphs were before, memory by its packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..diffusion.schedulers import SCHEDULERS
from ..errors import OutOfMemory
from ..pack import Pack
from ..workflow import CheckedNode, CheckedWorkflow, Link
from .componentcost import ROLES as COMPONENT_ROLES
from .componentcost import component_runs, looks, measure_component, with_components
from .conditioning import Encoding
from .graphtimes import Pace, pace_key
from .imageprompt import LOOKING, silent_tokens
from .memorychoice import PROCESS_MB, memory_needs
from .nodes import LOADERS, NODES
from .picturesizes import Size, size_of
from .stages import Stages
from .workbench import Workbench

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
CONDITIONINGS = ("conditioning_1", "conditioning_2", "conditioning", "conditioning_to")
IN_TILES = ("VAEDecodeTiled",)


@dataclass(frozen=True)
class GraphRuns:
    """A graph of a pack, run with inputs of a size (`HEIGHTxWIDTH`, empty for words)."""

    pack: str
    role: str
    size: str


@dataclass(frozen=True)
class SecondsEstimate:
    """Attributes:
    seconds: None when something is unknown.
    note: where it comes from, or what is missing.
    """

    seconds: float | None
    note: str


def graph_runs(bench: Workbench, checked: CheckedWorkflow) -> Counter[GraphRuns] | None:
    """How often each graph will run; None when a picture's size shows only while it runs."""
    sizes: dict[str, Size | None] = {}
    found: Counter[GraphRuns] = Counter()
    for node in checked.nodes.values():
        sizes[node.id] = size_of(bench, checked, node, sizes)
        for runs, times in _runs_of(bench, checked, node, sizes):
            if runs is None:
                return None
            found[runs] += times
        for name, role, size, times in component_runs(bench, checked, node, sizes):
            found[GraphRuns(name, role, size)] += times
    return found


def estimate_seconds(runs: Mapping[GraphRuns, int] | None, provider: str, pace: Pace) -> SecondsEstimate:
    """The runs' seconds together; loading the graphs comes on top."""
    if runs is None:
        return SecondsEstimate(None, "its sizes show only while it runs")
    seconds, scaled = 0.0, False
    for run, times in runs.items():
        own, is_scaled = _seconds_a_run(run, provider, pace)
        if own is None:
            where = f"{run.role} of pack {run.pack} on provider {provider}"
            return SecondsEstimate(None, f"this device has not run {where} yet: a first job, or --measure")
        seconds, scaled = seconds + times * own, scaled or is_scaled
    how = "from other sizes, by their pixels" if scaled else "as measured on this device"
    return SecondsEstimate(seconds, f"{how}; loading the graphs comes on top")


def measure(bench: Workbench, runs: Mapping[GraphRuns, int]) -> Pace:
    """Run every graph twice with nothing in it, for how long it takes; loads the packs."""
    for run in runs:
        if run.role in COMPONENT_ROLES:
            measure_component(bench, run.pack, run.role)
            continue
        stages = bench.stages(bench.pack_for(run.pack))
        channels = stages.pack.manifest.latent_channels
        height, _, width = run.size.partition("x")
        for _ in range(2):
            if run.role in TEXT_ENCODERS:
                stages.words.forget()
                stages.encode("")
            elif run.role == "vae_encoder":
                stages.encode_picture(np.zeros((1, 3, int(height), int(width)), np.float32))
            else:
                latents = np.zeros((1, channels, int(height), int(width)), np.float32)
                if run.role.startswith("unet"):
                    stages.unet(latents, 1.0, _words(stages, looks=run.role.endswith(LOOKING)))
                else:
                    stages.decode(latents)
    return bench.pace()


def _words(stages: Stages, looks: bool) -> Encoding:
    """Nothing, said with a picture or without."""
    layers = stages.pack.manifest.ip_layers
    return replace(stages.encode(""), image=silent_tokens(layers) if looks and layers else None)


def peak_memory(
    bench: Workbench, packs: Mapping[str, Pack], runs: Mapping[GraphRuns, int] | None
) -> tuple[int | None, str]:
    """MB of the whole process, and in which memory mode; (None, why) when it does not fit.

    All packs of a workflow stay loaded at once. Of an unknown size the packs' own is taken.
    """
    total, modes, names = 0, set(), set()
    for pack in {pack.name: pack for pack in packs.values()}.values():
        size = _largest(pack, runs)
        try:
            mode = bench.memory_of(pack, size).mode.name
        except OutOfMemory as err:
            return None, str(err)
        needs = memory_needs(pack.manifest, size)
        mb = needs.mb.get(mode, needs.mb[needs.least])
        total += max(mb - (PROCESS_MB if total else 0), 0)
        modes.add(f"in memory mode {mode}")
        names.add(mode)
    parts = {(run.role, run.pack) for run in runs or () if run.role in COMPONENT_ROLES}
    components = [bench.component_for(role, name) for role, name in parts]  # type: ignore[arg-type]
    return with_components(total, components, names) or None, " and ".join(sorted(modes))


def _largest(pack: Pack, runs: Mapping[GraphRuns, int] | None) -> tuple[int, int] | None:
    """Width and height in pixels of the largest latents that the pack's denoiser sees."""
    sizes = [run.size for run in runs or () if run.pack == pack.name and run.role.startswith("unet")]
    if not sizes:
        return None
    height, _, width = max(sizes, key=_pixels).partition("x")
    side = pack.manifest.latent_downscale
    return int(width) * side, int(height) * side


def _seconds_a_run(run: GraphRuns, provider: str, pace: Pace) -> tuple[float | None, bool]:
    """(seconds, whether they come from another size)."""
    if (exact := pace.get(pace_key(run.pack, provider, run.role, run.size))) is not None:
        return exact, False
    prefix = pace_key(run.pack, provider, run.role, "")
    others = {
        key.removeprefix(prefix): s for key, s in pace.items() if key.startswith(prefix) and key != prefix
    }
    if not others or not run.size:
        return None, False
    nearest = min(others, key=lambda size: abs(_pixels(size) - _pixels(run.size)))
    return others[nearest] * _pixels(run.size) / _pixels(nearest), True


def _pixels(size: str) -> int:
    height, _, width = size.partition("x")
    return int(height) * int(width)


def _runs_of(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, sizes: Mapping[str, Size | None]
) -> Iterator[tuple[GraphRuns | None, int]]:
    """(graph, times); (None, 0) for one of unknown size."""
    if node.class_type.startswith("CLIPTextEncode") and (pack := _pack(bench, checked, node, "clip")):
        yield from (
            (GraphRuns(pack.name, role, ""), 1) for role in TEXT_ENCODERS if role in pack.manifest.graphs
        )
    for link, source, role in (
        ("model", "latent_image", "unet"),
        ("vae", "samples", "vae_decoder"),
        ("vae", "pixels", "vae_encoder"),
    ):
        feed, pack = node.inputs.get(source), _pack(bench, checked, node, link)
        if pack is None or not isinstance(feed, Link):
            continue
        size = sizes.get(feed.node)
        if size is None or node.class_type in IN_TILES or _speaks_of_areas(checked, node):
            yield None, 0
            return
        side = pack.manifest.latent_downscale
        width, height = size[0] // side, size[1] // side
        if role == "vae_encoder":  # what is over a multiple is cut off
            width, height = width * side, height * side
        times = _looks(checked, node, pack) if role == "unet" else 1
        if role == "unet" and looks(checked, node):
            role += LOOKING
        yield GraphRuns(pack.name, role, f"{height}x{width}"), times * size[2]


def _looks(checked: CheckedWorkflow, node: CheckedNode, pack: Pack) -> int:
    """How often a sampler asks the denoiser about one picture."""
    values = _plain_values(node)
    for name in ("sampler", "sigmas"):  # nodes of their own, of a sampler taken apart
        if isinstance(link := node.inputs.get(name), Link):
            values |= _plain_values(checked.nodes[link.node])
    steps = NODES[node.class_type].planned_steps(values)
    if values.get("denoise", 1.0) <= 0 or steps == 0:
        return 0
    looks = SCHEDULERS[values["sampler_name"]].looks(steps)
    positive = _conditionings(checked, node.inputs.get("positive"))
    negative = _conditionings(checked, node.inputs.get("negative"))
    one_pass = values.get("cfg") == 1 or pack.manifest.guidance_embedding_dim
    return looks * (positive + (0 if one_pass else negative))


def _plain_values(node: CheckedNode) -> dict[str, Any]:
    return {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}


def _speaks_of_areas(checked: CheckedWorkflow, node: CheckedNode) -> bool:
    """Whether some of a sampler's words are for a part of the picture, looked at in a size of its own."""
    links = [node.inputs.get(name) for name in (*CONDITIONINGS, "positive", "negative")]
    sources = [checked.nodes[link.node] for link in links if isinstance(link, Link)]
    return any(
        source.class_type == "ConditioningSetArea" or _speaks_of_areas(checked, source) for source in sources
    )


def _conditionings(checked: CheckedWorkflow, value: Any) -> int:
    """How many encodings a sampler gets: combining adds them up, all else keeps their number."""
    if not isinstance(value, Link):
        return 0
    node = checked.nodes[value.node]
    inputs = (node.inputs[name] for name in CONDITIONINGS if name in node.inputs)
    return sum(_conditionings(checked, value) for value in inputs) or 1


def _pack(bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, name: str) -> Pack | None:
    """The pack behind a link, through whatever hands it on."""
    link = node.inputs.get(name)
    while isinstance(link, Link):
        source = checked.nodes[link.node]
        if (file := LOADERS.get(source.class_type)) is not None:
            return bench.pack_for(source.inputs[file])
        link = source.inputs.get(name)
    return None
