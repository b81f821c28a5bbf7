"""What image encoders, IP-Adapters, ControlNets, upscalers and LoRA cost: runs, seconds and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..component import Component, ComponentManifest
from ..errors import LoraError
from ..workflow import CheckedNode, CheckedWorkflow, Link
from . import clipvision, control, imageprompt, upscaling
from .graphtimes import Pace
from .lora.merge import LoraSet, LoraUse
from .memory import MODES
from .memorychoice import PROCESS_MB
from .nodes.behind import LOOKING
from .nodes.ipchecks import parts_of
from .picturesizes import Size, upscaler_of
from .workbench import Workbench

ROLES = (clipvision.ROLE, imageprompt.ROLE, control.ROLE, upscaling.ROLE)
FULL_FACTOR = 2.5  # memory for bytes of files: FP16 becomes float32, and working memory comes on top
LOADING_FACTOR = 1.4  # measured, see docs/LORA.md
ENLARGING = "ImageUpscaleWithModel"


def component_runs(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, sizes: Mapping[str, Size | None]
) -> Iterator[tuple[str, str, str, int]]:
    """(component, role, size, times) of the graphs that a node runs which enlarges pictures, or shows them to
    a denoiser; those of ControlNets run with the denoiser."""
    if node.class_type == ENLARGING:
        yield from _enlarging_runs(bench, checked, node, sizes)
    if node.class_type not in LOOKING or node.inputs.get("weight") == 0:
        return
    adapter, vision = parts_of(bench, checked.written, checked.written.nodes[node.id])
    pictures = _pictures(node, "image", sizes)
    if adapter is None or vision is None:
        return
    more = _pictures(node, "image_negative", sizes) if "image_negative" in node.inputs else 1
    is_zero = adapter.manifest.reads == "image_embeds" and "image_negative" not in node.inputs
    side = vision.manifest.image_size
    yield vision.name, clipvision.ROLE, f"{side}x{side}", pictures + (0 if is_zero else more)
    yield adapter.name, imageprompt.ROLE, "", 2


def _enlarging_runs(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, sizes: Mapping[str, Size | None]
) -> Iterator[tuple[str, str, str, int]]:
    component = upscaler_of(bench, checked, node)
    link = node.inputs["image"]
    if component is None or (size := sizes.get(link.node)) is None:
        return
    for tile, times in bench.upscaler(component).runs(*size[:2]).items():
        yield component.name, upscaling.ROLE, tile, times * size[2]


def _pictures(node: CheckedNode, name: str, sizes: Mapping[str, Size | None]) -> int:
    link = node.inputs.get(name)
    size = sizes.get(link.node) if isinstance(link, Link) else None
    return size[2] if size else 1


def looks(checked: CheckedWorkflow, node: CheckedNode) -> bool:
    """Whether a picture is shown to the denoiser that a sampler asks."""
    link = node.inputs.get("model")
    while isinstance(link, Link):
        before = checked.nodes[link.node]
        if before.class_type in LOOKING and before.inputs.get("weight") != 0:
            return True
        link = before.inputs.get("model")
    return False


def measure_component(bench: Workbench, name: str, role: str, size: str) -> Pace:
    """Run a component's graph twice with nothing in it, for how long it takes."""
    if role == upscaling.ROLE:
        upscaler = bench.upscaler(bench.component_for("upscaler", name))
        height, _, width = size.partition("x")
        for _ in range(2):
            list(upscaler.enlarge(np.zeros((1, 3, int(height), int(width)), np.float32)))
        return upscaler.pace()
    if role == clipvision.ROLE:
        eyes = bench.clip_vision(bench.component_for("clip_vision", name))
        side = eyes.component.manifest.image_size or 1
        for _ in range(2):
            eyes.see(np.zeros((1, 3, side, side), np.float32))
        return eyes.pace()
    adapter = bench.ip_adapter(bench.component_for("ip_adapter", name))
    for _ in range(2):
        adapter.tokens(_nothing(adapter.component.manifest))
    return adapter.pace()


def _nothing(manifest: ComponentManifest) -> np.ndarray:
    rows = (257,) if manifest.reads == "hidden_states" else ()
    return np.zeros((1, *rows, manifest.reads_width or 1), np.float32)


def with_components(total_mb: int, components: Iterable[Component], modes: Iterable[str]) -> int:
    """MB of a process that needs so many for its packs, and has these components; by their files, working
    memory of large pictures comes on top.

    Where graphs stay loaded all of it adds up. Else what shows pictures is freed before the denoiser loads,
    and a ControlNet works beside it; an upscaler comes last, and knows no memory modes.
    """
    sizes = dict.fromkeys(ROLES, 0.0)
    for one in components:
        sizes[one.manifest.kind] += sum(file.bytes for file in one.manifest.files().values()) / 1e6
    enlarging = FULL_FACTOR * sizes[upscaling.ROLE]
    shown = [sizes[clipvision.ROLE], sizes[imageprompt.ROLE]]
    if modes and all(not MODES[mode].keeps_graphs for mode in modes):
        beside = total_mb + round(sizes[control.ROLE] / 2)
        return max(beside, round(PROCESS_MB + max(*(mb / 2 for mb in shown), enlarging)))
    factor = FULL_FACTOR if "full" in modes else 1.0
    return total_mb + round(factor * (sum(shown) + sizes[control.ROLE]) + enlarging)


def lora_mb(bench: Workbench, uses: Mapping[str, Iterable[LoraUse]], modes: Iterable[str]) -> int:
    """MB of the weights that LoRA files change: held in memory beside the graph's, in `full` while it loads.

    Args:
        uses: by the pack's name. A file that does not fit is told of when it is merged.
    """
    total = 0
    for name, files in uses.items():
        with contextlib.suppress(LoraError):
            total += LoraSet(tuple(files)).changed_bytes(bench.pack_for(name))
    return round(total / 1e6 * (LOADING_FACTOR if "full" in modes else 1.0))
