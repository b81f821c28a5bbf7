"""The nodes of workflows: one small class for each of ComfyUI's that can be done faithfully."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...pack import Pack
from ...workflow import (
    BadWorkflow,
    CheckedWorkflow,
    GraphNode,
    Link,
    NodeProblem,
    NodeSpec,
    Workflow,
    check_workflow,
)
from ...workflow.constants import fold_constants
from ...workflow.declare import Unfit
from ...workflow.order import needed_by
from ..clipskip import layer_problem
from ..control import CONTROLLED
from ..workbench import Workbench
from . import (
    batches,
    compose,
    conditionings,
    constants,
    controls,
    custom,
    filters,
    guiders,
    images,
    ipadapters,
    latentparts,
    latents,
    levels,
    loaders,
    loras,
    maskmaths,
    masks,
    sampling,
    upscaling,
)
from .base import Latents, Node, Shown
from .behind import LOADERS, pack_at, source_of
from .guiders import guided_inputs
from .ipchecks import looking_problems

NODES: dict[str, Node] = {
    kind.__name__: kind()
    for module in (
        loaders,
        loras,
        conditionings,
        controls,
        sampling,
        custom,
        guiders,
        levels,
        latents,
        latentparts,
        batches,
        masks,
        images,
        upscaling,
        ipadapters,
        compose,
        filters,
        maskmaths,
        constants,
    )
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Node) and not kind.__name__.startswith("_")
    if kind.OUTPUTS or kind.IS_OUTPUT  # else it is a base of others
}
SPECS: dict[str, NodeSpec] = {name: node.spec() for name, node in NODES.items()}
ENCODERS = ("VAEEncode", "VAEEncodeForInpaint")
EMPTY = "EmptyLatentImage"
SIDES = ("positive", "negative")
CONTROL_NODES = ("ControlNetApply", "ControlNetApplyAdvanced")

__all__ = ["LOADERS", "NODES", "SPECS", "Latents", "Node", "Shown", "check_for", "packs_of", "remarks_on"]


def check_for(bench: Workbench, workflow: Workflow) -> CheckedWorkflow:
    """Check a workflow for this device, without loading any weights. Raises BadWorkflow."""

    def custom(class_type: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        return NODES[class_type].check(bench, dict(values))

    problems = list(_pack_problems(bench, fold_constants(workflow, SPECS)))
    try:
        checked = check_workflow(workflow, SPECS, custom)
    except BadWorkflow as err:
        raise BadWorkflow([*err.found, *problems], err.outputs_of) from None
    if problems:
        raise BadWorkflow(problems, {problem.node_id: checked.outputs for problem in problems})
    return checked


def remarks_on(checked: CheckedWorkflow) -> list[str]:
    """What runs, but otherwise than in ComfyUI."""
    return [
        f"node {node.id} ({node.class_type}): {remark}"
        for node in checked.nodes.values()
        for remark in NODES[node.class_type].remarks(
            {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}
        )
    ]


def packs_of(bench: Workbench, checked: CheckedWorkflow) -> dict[str, Pack]:
    """Checkpoint name -> the pack it stands for, of all that a workflow loads."""
    found = (node.inputs.get(LOADERS.get(node.class_type, "")) for node in checked.nodes.values())
    names = [name for name in found if name is not None]
    return {name: bench.pack_for(name) for name in names}


def _pack_problems(bench: Workbench, workflow: Workflow) -> Iterator[NodeProblem]:
    """What the packs say of the nodes that they are linked to."""
    outputs = [
        node.id for node in workflow.nodes.values() if SPECS.get(node.class_type, NodeSpec("")).is_output
    ]
    needed = needed_by(workflow.nodes, outputs)
    for node in (node for node in workflow.nodes.values() if node.id in needed):
        if (pack := pack_at(bench, workflow, node, "vae")) and node.class_type in ENCODERS:
            yield from _encoder_problem(node, pack)
        if pack := pack_at(bench, workflow, node, "clip"):
            yield from _clip_problem(node, pack)
        asking = replace(node, inputs=guided_inputs(workflow.nodes, node))
        if node.class_type != guiders.CFGGuider.__name__:  # told of the sampler that it guides
            yield from _control_problems(bench, workflow, asking)
        yield from looking_problems(bench, workflow, node)
        empty = source_of(workflow, node.inputs.get("latent_image"))
        pack = pack_at(bench, workflow, asking, "model")
        if pack and empty and empty.class_type == EMPTY:
            yield from _size_problems(empty, pack)


def _encoder_problem(node: GraphNode, pack: Pack) -> Iterator[NodeProblem]:
    if "vae_encoder" not in pack.manifest.graphs:
        message = f"pack {pack.name} cannot encode pictures: it has no graph vae_encoder"
        yield NodeProblem("custom_validation_failed", node.id, node.class_type, "vae", pack.name, message)


def _clip_problem(node: GraphNode, pack: Pack) -> Iterator[NodeProblem]:
    """What a pack's text encoders cannot give."""
    found: tuple[str, Any, str | None] = "", None, None
    layer = node.inputs.get("stop_at_clip_layer")
    if node.class_type == "CLIPSetLastLayer" and isinstance(layer, int):
        found = "stop_at_clip_layer", layer, layer_problem(pack, pack.manifest, layer)
    elif node.class_type == "CLIPTextEncodeSDXL" and "text_encoder_2" not in pack.manifest.graphs:
        found = "clip", pack.name, conditionings.one_encoder(pack.name)
    name, value, message = found
    if message:
        yield NodeProblem("custom_validation_failed", node.id, node.class_type, name, value, message)


def _control_problems(bench: Workbench, workflow: Workflow, node: GraphNode) -> Iterator[NodeProblem]:
    """A ControlNet on what is sampled with a pack that none can speak to."""
    pack = pack_at(bench, workflow, node, "model")
    if pack is None or CONTROLLED in pack.manifest.graphs:
        return
    sides = [value.node for name in SIDES if isinstance(value := node.inputs.get(name), Link)]
    if any(workflow.nodes[k].class_type in CONTROL_NODES for k in needed_by(workflow.nodes, sides)):
        message = sampling.no_control(pack.name)
        yield NodeProblem("custom_validation_failed", node.id, node.class_type, "model", pack.name, message)


def _size_problems(empty: GraphNode, pack: Pack) -> Iterator[NodeProblem]:
    for name in ("width", "height"):
        try:
            side = SPECS[EMPTY].inputs[name].fit(empty.inputs.get(name))
        except Unfit:
            continue  # told already
        if problem := pack.manifest.sizes.problem_with(side):
            message = f"{problem} with pack {pack.name}"
            yield NodeProblem("custom_validation_failed", empty.id, empty.class_type, name, side, message)
