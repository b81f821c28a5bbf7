"""What image encoders and IP-Adapters cost: how often their graphs run, for how long, and their memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..component import Component, ComponentManifest
from ..workflow import CheckedNode, CheckedWorkflow, Link
from . import clipvision, imageprompt
from .graphtimes import Pace
from .memory import MODES
from .memorychoice import PROCESS_MB
from .nodes.behind import LOOKING
from .nodes.ipchecks import parts_of
from .workbench import Workbench

ROLES = (clipvision.ROLE, imageprompt.ROLE)
FULL_FACTOR = 2.5  # memory for bytes of files: FP16 becomes float32, and working memory comes on top
Size = tuple[int, int, int]


def component_runs(
    bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, sizes: Mapping[str, Size | None]
) -> Iterator[tuple[str, str, str, int]]:
    """(component, role, size, times) of the graphs that a node runs which shows pictures to a denoiser."""
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


def measure_component(bench: Workbench, name: str, role: str) -> Pace:
    """Run a component's graph twice with nothing in it, for how long it takes."""
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
    """MB of a process that needs so many for its packs, and has these components.

    Where graphs stay loaded all of it adds up; else each is freed before the denoiser loads.
    """
    sizes = [sum(file.bytes for file in one.manifest.files().values()) / 1e6 for one in components]
    if not sizes:
        return total_mb
    if all(not MODES[mode].keeps_graphs for mode in modes):
        return max(total_mb, round(PROCESS_MB + max(sizes) / 2))
    factor = FULL_FACTOR if "full" in modes else 1.0
    return total_mb + round(factor * sum(sizes))
