"""What a workflow costs on this device: seconds by how fast its graphs were before, memory by its packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..diffusion.schedulers import needs_both_passes
from ..errors import OutOfMemory
from ..pack import Pack
from ..workflow import CheckedNode, CheckedWorkflow, Link
from .componentcost import ROLES as COMPONENT_ROLES
from .componentcost import component_runs, looks, lora_mb, measure_component, with_components
from .conditioning import Encoding
from .control import CONTROLLED, Control
from .control import ROLE as CONTROLNET
from .graphtimes import Pace, pace_key
from .imageprompt import LOOKING, silent_tokens
from .looks import (
    CONDITIONINGS,
    SIDES,
    asked_timesteps,
    both_sides,
    counted,
    looks_of,
    plain_values,
    sampler_of,
    told_by,
)
from .lora.merge import LoraUse
from .memorychoice import PROCESS_MB, memory_needs
from .nodes import LOADERS
from .nodes.guiders import guided_inputs
from .picturesizes import Size, size_of
from .stages import Stages
from .workbench import Workbench

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
IN_TILES = ("VAEDecodeTiled",)
OF_AREAS = ("ConditioningSetArea", "ConditioningSetAreaPercentage")


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
        if run.role == CONTROLNET:
            continue  # with the denoiser that it leads
        if run.role in COMPONENT_ROLES:
            measure_component(bench, run.pack, run.role, run.size)
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
                    words = _words(stages, looks=run.role.endswith(LOOKING))
                    nets = _nets(bench, runs, run.size) if run.role.startswith(CONTROLLED) else ()
                    stages.unet(latents, 1.0, replace(words, controls=nets))
                else:
                    stages.decode(latents)
    return bench.pace()


def _nets(bench: Workbench, runs: Iterable[GraphRuns], size: str) -> tuple[Control, ...]:
    """The ControlNets that work at that size, with nothing to be led by."""
    hint = np.zeros((1, 3, 8, 8), np.float32)
    nets = (
        bench.controlnet(bench.component_for("controlnet", run.pack))
        for run in runs
        if run.role == CONTROLNET and run.size == size
    )
    return tuple(Control(net, hint) for net in nets)


def _words(stages: Stages, looks: bool) -> Encoding:
    """Nothing, said with a picture or without."""
    layers = stages.pack.manifest.ip_layers
    return replace(stages.encode(""), images=(silent_tokens(layers),) if looks and layers else ())


def peak_memory(
    bench: Workbench,
    packs: Mapping[str, Pack],
    runs: Mapping[GraphRuns, int] | None,
    loras: Mapping[str, Iterable[LoraUse]] | None = None,
) -> tuple[int | None, str]:
    """MB of the whole process, and in which memory mode; (None, why) when it does not fit.

    Args:
        loras: what is merged, by the pack's name; see `loras_of`.

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
    total += lora_mb(bench, loras or {}, names)
    return with_components(total, components, names) or None, " and ".join(sorted(modes))


def loras_of(bench: Workbench, checked: CheckedWorkflow) -> dict[str, list[LoraUse]]:
    """What is merged into each pack's weights, on whichever way through the graph."""
    found: dict[str, list[LoraUse]] = {}
    for node in checked.nodes.values():
        if "lora_name" in node.inputs and (pack := _pack(bench, checked, node, "model")):
            values = plain_values(node)
            strengths = values.get("strength_model", 1.0), values.get("strength_clip", 0.0)
            use = LoraUse(bench.lora_file(values["lora_name"]), *strengths)
            found.setdefault(pack.name, []).append(use)
    return found


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
    node = replace(node, inputs=guided_inputs(checked.nodes, node))
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
        shown = f"{height}x{width}"
        if role == "unet":
            yield from _denoiser_runs(bench, checked, node, pack, shown, size[2])
        else:
            yield GraphRuns(pack.name, role, shown), size[2]


def _denoiser_runs(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, pack: Pack, size: str, pictures: int
) -> Iterator[tuple[GraphRuns | None, int]]:
    """The denoiser's graphs and those of the ControlNets that lead it, of one sampler."""
    manifest = pack.manifest
    asked = asked_timesteps(bench, checked, node, manifest)
    if asked is None:
        yield None, 0
        return
    both = needs_both_passes(sampler_of(checked, node), node.inputs.get("cfg", 0.0))
    is_one_pass = manifest.guidance_embedding_dim or not both
    positive, negative = (told_by(bench, checked, node.inputs.get(side)) for side in SIDES)
    told = positive if is_one_pass else both_sides(positive, negative)
    led, nets = counted(looks_of(asked, told, manifest.num_train_timesteps))
    suffix = LOOKING if looks(checked, node) else ""
    for is_led, times in led.items():
        role = (CONTROLLED if is_led else "unet") + suffix
        yield GraphRuns(pack.name, role, size), times * pictures
    for net, times in nets.items():
        yield GraphRuns(net, CONTROLNET, size), times * pictures


def _speaks_of_areas(checked: CheckedWorkflow, node: CheckedNode) -> bool:
    """Whether some of a sampler's words are for a part of the picture, looked at in a size of its own."""
    links = [node.inputs.get(name) for name in (*CONDITIONINGS, *SIDES)]
    sources = [checked.nodes[link.node] for link in links if isinstance(link, Link)]
    return any(source.class_type in OF_AREAS or _speaks_of_areas(checked, source) for source in sources)


def _pack(bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, name: str) -> Pack | None:
    """The pack behind a link, through whatever hands it on."""
    link = node.inputs.get(name)
    while isinstance(link, Link):
        source = checked.nodes[link.node]
        if (file := LOADERS.get(source.class_type)) is not None:
            return bench.pack_for(source.inputs[file])
        link = source.inputs.get(name)
    return None
