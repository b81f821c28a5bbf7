"""Workflows as forms: `%name%` in any text is filled in, and any input may be set from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from .parse import Link, Workflow
from .problems import BadWorkflow, NodeProblem, shown

PLACEHOLDER = re.compile(r"%([a-z][a-z0-9_]{0,31})%")
# Those that ComfyUI fills in itself when it names a file.
FILE_NAMES_OWN = frozenset({"width", "height", "year", "month", "day", "hour", "minute", "second", "date"})


def fill_placeholders(workflow: Workflow, values: Mapping[str, str]) -> Workflow:
    """Every `%name%` replaced by its value; one that stands alone may become a number when it is checked.

    Raises:
        BadWorkflow: a placeholder has no value, or a value no placeholder.
    """
    used: set[str] = set()

    def fill(text: str) -> str:
        found = set(PLACEHOLDER.findall(text)) & set(values)
        used.update(found)
        return PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), text)

    nodes = {
        node.id: replace(node, inputs={name: _map_text(value, fill) for name, value in node.inputs.items()})
        for node in workflow.nodes.values()
    }
    problems = list(_unfilled(workflow, values))
    for name in sorted(set(values) - used):
        message = f"the workflow has no placeholder %{name}%; it has {_known(workflow)}"
        problems.append(NodeProblem("invalid_prompt", "", "", "", name, message))
    if problems:
        raise BadWorkflow(problems)
    return replace(workflow, nodes=nodes)


def placeholders_of(workflow: Workflow) -> set[str]:
    """The names of all placeholders, those that ComfyUI fills in itself among them."""
    texts = (v for node in workflow.nodes.values() for v in node.inputs.values() if isinstance(v, str))
    return {name for text in texts for name in PLACEHOLDER.findall(text)}


def override_inputs(workflow: Workflow, values: Mapping[tuple[str, str], Any]) -> Workflow:
    """Set inputs: {(node id, input): value}. An input that was linked is then no longer.

    Raises:
        BadWorkflow: no node has that id.
    """
    nodes = dict(workflow.nodes)
    problems = []
    for (node_id, name), value in values.items():
        if node_id in nodes:
            nodes[node_id] = replace(nodes[node_id], inputs={**nodes[node_id].inputs, name: value})
            continue
        near = get_close_matches(node_id, nodes, 1)
        message = f"the workflow has no node {shown(node_id)}" + (
            f"; did you mean {near[0]}?" if near else ""
        )
        problems.append(NodeProblem("invalid_prompt", "", "", "", node_id, message))
    if problems:
        raise BadWorkflow(problems)
    return replace(workflow, nodes=nodes)


def _map_text(value: Any, fill: Any) -> Any:
    return fill(value) if isinstance(value, str) else value


def _unfilled(workflow: Workflow, values: Mapping[str, str]) -> Iterator[NodeProblem]:
    for node in workflow.nodes.values():
        for name, value in node.inputs.items():
            if isinstance(value, Link) or not isinstance(value, str):
                continue
            own = FILE_NAMES_OWN if name == "filename_prefix" else frozenset()
            for placeholder in sorted(set(PLACEHOLDER.findall(value)) - set(values) - own):
                message = f"the placeholder %{placeholder}% has no value"
                yield NodeProblem("custom_validation_failed", node.id, node.class_type, name, value, message)


def _known(workflow: Workflow) -> str:
    return ", ".join(f"%{name}%" for name in sorted(placeholders_of(workflow))) or "none"
