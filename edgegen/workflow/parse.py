"""From hostile bytes to a graph: sizes bounded, each node's shape checked, nothing yet of its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .problems import BadWorkflow, NodeProblem, shown, whole

MAX_BYTES = 1 << 20
MAX_NODES = 500
MAX_DEPTH = 16
MAX_INPUTS = 100
MAX_ID_CHARS = 64
SAVE_AS_API = (
    "this is a workflow as ComfyUI's editor saves it, without what its nodes' inputs are called. Open it in "
    'ComfyUI and save it with "Save (API Format)", called "Export (API)" in newer ones'
)


@dataclass(frozen=True)
class Link:
    """Another node's output."""

    node: str
    slot: int


@dataclass(frozen=True)
class GraphNode:
    """One node as written: each input's value is a `Link` or plain data."""

    id: str
    class_type: str
    inputs: dict[str, Any]
    title: str = ""


@dataclass(frozen=True)
class Workflow:
    """A graph as written.

    Attributes:
        nodes: by id.
        editor: the editor's own form of it, when it was sent along; what ComfyUI keeps as `workflow`.
    """

    nodes: dict[str, GraphNode]
    editor: Any = field(default=None, compare=False)

    def as_data(self) -> dict[str, Any]:
        """The API format again."""
        return {node.id: _node_data(node) for node in self.nodes.values()}


def parse_workflow(raw: bytes | str) -> Workflow:
    """Read ComfyUI's API format, bare or as it is posted to `/prompt`.

    Raises:
        BadWorkflow: too big, no JSON, the editor's format, or nodes of no known shape; all problems at once.
    """
    return workflow_from(_load(raw))


def workflow_from(data: object) -> Workflow:
    """The same from parsed JSON."""
    if not isinstance(data, dict):
        raise whole("invalid_prompt", f"a workflow is a JSON object of nodes, not {type(data).__name__}")
    _check_depth(data)
    if isinstance(data.get("nodes"), list):
        raise whole("invalid_prompt", SAVE_AS_API)
    posted = isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]
    editor = _editor_form(data) if posted else None
    nodes: dict[str, Any] = data["prompt"] if posted else data
    if not nodes:
        raise whole("prompt_no_outputs", "the workflow has no nodes")
    if len(nodes) > MAX_NODES:
        raise whole("invalid_prompt", f"the workflow has {len(nodes)} nodes; at most {MAX_NODES} are allowed")
    if problems := [p for node_id, node in nodes.items() for p in _shape_problems(node_id, node)]:
        raise BadWorkflow(problems)
    return Workflow({node_id: _node(node_id, node) for node_id, node in nodes.items()}, editor)


def _load(raw: bytes | str) -> Any:
    size = len(raw)
    if size > MAX_BYTES:
        raise whole("invalid_prompt", f"the workflow has {size} bytes; at most {MAX_BYTES} are allowed")
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise whole("invalid_prompt", "the workflow is nested too deeply") from None
    except ValueError as err:  # bad JSON, bad UTF-8, NaN, a number of thousands of digits
        raise whole("invalid_prompt", f"the workflow is not valid JSON: {str(err)[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _check_depth(data: object) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise whole("invalid_prompt", f"the workflow is nested deeper than {MAX_DEPTH} levels")


def _children(item: object) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def _editor_form(data: dict[str, Any]) -> Any:
    found: Any = data
    for key in ("extra_data", "extra_pnginfo", "workflow"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _shape_problems(node_id: str, node: object) -> Iterator[NodeProblem]:
    def problem(message: str, value: object = None) -> NodeProblem:
        name = node.get("class_type") if isinstance(node, dict) else ""
        class_type = name if isinstance(name, str) else ""
        return NodeProblem("invalid_prompt", node_id[:MAX_ID_CHARS] or '""', class_type, "", value, message)

    if not node_id or len(node_id) > MAX_ID_CHARS:
        yield problem(f"a node's id has 1 to {MAX_ID_CHARS} characters, not {len(node_id)}")
    if not isinstance(node, dict):
        yield problem(f"a node is a JSON object with class_type and inputs, not {type(node).__name__}")
        return
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        yield problem("class_type, the name of the node's class, is missing", node.get("class_type"))
    inputs = node.get("inputs", {})
    if not isinstance(inputs, dict):
        yield problem(f"inputs is a JSON object, not {type(inputs).__name__}")
    elif len(inputs) > MAX_INPUTS:
        yield problem(f"has {len(inputs)} inputs; at most {MAX_INPUTS} are allowed")


def _node(node_id: str, node: dict[str, Any]) -> GraphNode:
    inputs = {name: _link_or_value(value) for name, value in node.get("inputs", {}).items()}
    meta = node.get("_meta")
    title = meta.get("title", "") if isinstance(meta, dict) else ""
    return GraphNode(node_id, node["class_type"], inputs, title if isinstance(title, str) else "")


def _link_or_value(value: Any) -> Any:
    """Lists are links in this format; one that is none stays a list and is refused by the check."""
    if isinstance(value, list) and len(value) == 2:
        node, slot = value
        is_id = isinstance(node, str) or (isinstance(node, int) and not isinstance(node, bool))
        if is_id and isinstance(slot, int) and not isinstance(slot, bool):
            return Link(str(node), slot)
    return value


def _node_data(node: GraphNode) -> dict[str, Any]:
    inputs = {
        name: [value.node, value.slot] if isinstance(value, Link) else value
        for name, value in node.inputs.items()
    }
    meta = {"_meta": {"title": node.title}} if node.title else {}
    return {"inputs": inputs, "class_type": node.class_type, **meta}
