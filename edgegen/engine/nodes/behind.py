"""What lies behind a node's links in a workflow that was not checked yet, as far as it can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...component import Component, Kind
from ...errors import PackError
from ...pack import Pack
from ...workflow import GraphNode, Link, Workflow
from ..workbench import Workbench
from . import loaders

LOADERS = {kind.__name__: kind.NAME for kind in (loaders.CheckpointLoaderSimple, loaders.VAELoader)}
HANDING_ON = ("LoraLoader", "LoraLoaderModelOnly", "CLIPSetLastLayer")
LOOKING = ("IPAdapter", "IPAdapterAdvanced")
"""Nodes that show a picture to the denoiser."""
UNIFIED = "IPAdapterUnifiedLoader"


def source_of(workflow: Workflow, value: Any) -> GraphNode | None:
    """The node a link comes from."""
    return workflow.nodes.get(value.node) if isinstance(value, Link) else None


def chain(workflow: Workflow, node: GraphNode, link: str) -> Iterator[GraphNode]:
    """The nodes that hand on what a link brings, nearest first; the last is where it comes from."""
    for _ in workflow.nodes:  # no more: a workflow not checked yet may go in circles
        found = source_of(workflow, node.inputs.get(link))
        if found is None:
            return
        yield found
        if found.class_type not in (*HANDING_ON, *LOOKING, UNIFIED):
            return
        node = found


def pack_at(bench: Workbench, workflow: Workflow, node: GraphNode, link: str) -> Pack | None:
    """The pack behind a link, if it can be told; else that is a problem of its own."""
    *_, loader = (None, *chain(workflow, node, link))
    name = loader.inputs.get(LOADERS.get(loader.class_type, "")) if loader else None
    try:
        return bench.pack_for(name) if isinstance(name, str) else None
    except PackError:
        return None


def component_at(bench: Workbench, node: GraphNode | None, kind: Kind, name: str) -> Component | None:
    """The component that a loader's input names, if it can be told."""
    file = node.inputs.get(name) if node else None
    try:
        return bench.component_for(kind, file) if isinstance(file, str) else None
    except PackError:
        return None
