"""What can be said of pictures in a prompt before anything is loaded: does pack, adapter and encoder fit?"""

from __future__ import annotations

from collections.abc import Iterator

from ...component import Component
from ...workflow import GraphNode, Link, NodeProblem, Workflow
from ..ippresets import PRESETS, preset_files
from ..workbench import Workbench
from .behind import LOOKING, UNIFIED, chain, component_at, pack_at, source_of
from .ipadapters import (
    NO_VISION,
    CLIPVisionLoader,
    IPAdapterModelLoader,
    fit_problems,
    older_problems,
    preset_problem,
)


def looking_problems(bench: Workbench, workflow: Workflow, node: GraphNode) -> Iterator[NodeProblem]:
    """Of nodes that show a picture to a denoiser, and of the loader that finds what they need."""
    if node.class_type in LOOKING:
        yield from _shown_problems(bench, workflow, node)
    elif node.class_type == UNIFIED:
        pack, preset = pack_at(bench, workflow, node, "model"), node.inputs.get("preset")
        if pack and preset in PRESETS and (found := preset_problem(bench, preset, pack.manifest)):
            yield _problem(node, "preset", preset, found)


def _shown_problems(bench: Workbench, workflow: Workflow, node: GraphNode) -> Iterator[NodeProblem]:
    if (seen := pack_at(bench, workflow, node, "model")) is not None:
        is_second = any(before.class_type in LOOKING for before in chain(workflow, node, "model"))
        is_masked = isinstance(node.inputs.get("attn_mask"), Link)
        for name, message in older_problems(seen.manifest, is_second, is_masked):
            yield _problem(node, name, None, message)
    loader = source_of(workflow, node.inputs.get("ipadapter"))
    if loader is None or (pack := pack_at(bench, workflow, node, "model")) is None:
        return
    adapter, vision = parts_of(bench, workflow, node)
    if loader.class_type != UNIFIED and source_of(workflow, node.inputs.get("clip_vision")) is None:
        yield _problem(node, "clip_vision", None, NO_VISION)
    if adapter is not None:
        for name, message in fit_problems(pack.manifest, adapter, vision):
            yield _problem(node, name, adapter.name, message)


def parts_of(
    bench: Workbench, workflow: Workflow, node: GraphNode
) -> tuple[Component | None, Component | None]:
    """Adapter and image encoder of a node, as far as they can be told."""
    loader = source_of(workflow, node.inputs.get("ipadapter"))
    adapter = component_at(bench, loader, "ip_adapter", IPAdapterModelLoader.NAME)
    vision = None
    if loader and loader.class_type == UNIFIED:
        pack, preset = pack_at(bench, workflow, loader, "model"), loader.inputs.get("preset")
        if pack and preset in PRESETS and not preset_problem(bench, preset, pack.manifest):
            found = preset_files(bench, preset, pack.manifest.family)
            adapter, vision = (one if isinstance(one, Component) else None for one in found)
    given = source_of(workflow, node.inputs.get("clip_vision"))
    if given is not None:
        vision = component_at(bench, given, "clip_vision", CLIPVisionLoader.NAME)
    return adapter, vision


def _problem(node: GraphNode, name: str, value: object, message: str) -> NodeProblem:
    return NodeProblem("custom_validation_failed", node.id, node.class_type, name, value, message)
