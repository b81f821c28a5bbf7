"""Is a workflow fit to run? Every problem of every node that counts, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from .constants import fold_constants
from .declare import EDITOR_LEFTOVERS, PLAIN, Input, NodeSpec, Unfit
from .order import cycle_in, needed_by, run_order, sources
from .parse import GraphNode, Link, Workflow
from .problems import BadWorkflow, NodeProblem, shown

CustomCheck = Callable[[str, Mapping[str, Any]], Iterator[tuple[str, str]]]
"""(class, its plain values that are right so far) -> (input's name, what is wrong with it)."""


@dataclass(frozen=True)
class CheckedNode:
    """A node whose inputs are right: links, and values of their inputs' types."""

    id: str
    class_type: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class CheckedWorkflow:
    """A workflow that can run.

    Attributes:
        nodes: those that an output needs, in the order in which they run.
        outputs: ids of the output nodes.
        unused: ids of the others, which are neither checked nor run.
    """

    nodes: dict[str, CheckedNode]
    outputs: list[str]
    unused: list[str]
    written: Workflow = field(compare=False)


def check_workflow(
    workflow: Workflow, specs: Mapping[str, NodeSpec], custom: CustomCheck | None = None
) -> CheckedWorkflow:
    """Check all that the outputs need, and put it in order; what only says a value is worked out first.

    Args:
        specs: the supported classes by name.
        custom: what else a class has to say of its values.
    Raises:
        BadWorkflow: lists every problem.
    """
    outputs = [node.id for node in workflow.nodes.values() if _is_output(node, specs)]
    written, workflow = workflow, fold_constants(workflow, specs)
    needed = needed_by(workflow.nodes, outputs or list(workflow.nodes))
    problems: list[NodeProblem] = []
    if not outputs:
        names = ", ".join(sorted(name for name, spec in specs.items() if spec.is_output))
        message = f"the workflow has no output: add a node of class {names}"
        problems.append(NodeProblem("prompt_no_outputs", "", "", "", None, message))
    checker = _Checker(workflow, specs, custom)
    checked = {node_id: checker.check(workflow.nodes[node_id]) for node_id in needed}
    problems += [p for node_id in workflow.nodes if node_id in needed for p in checked[node_id][1]]
    order, stuck = run_order(workflow.nodes, needed)
    if stuck:
        problems.append(_cycle_problem(workflow, cycle_in(workflow.nodes, stuck)))
    if problems:
        raise BadWorkflow(problems, _dependents(workflow, outputs))
    nodes = {node_id: checked[node_id][0] for node_id in order}
    behind = needed_by(written.nodes, outputs)
    unused = [node_id for node_id in written.nodes if node_id not in behind]
    return CheckedWorkflow(nodes, outputs, unused, written)


def _is_output(node: GraphNode, specs: Mapping[str, NodeSpec]) -> bool:
    return node.class_type in specs and specs[node.class_type].is_output


def _dependents(workflow: Workflow, outputs: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for output in outputs:
        for node_id in needed_by(workflow.nodes, [output]):
            found.setdefault(node_id, []).append(output)
    return found


def _cycle_problem(workflow: Workflow, cycle: list[str]) -> NodeProblem:
    way = " <- ".join([*cycle, cycle[0]])
    message = f"nodes wait for each other in a circle: {way}"
    first = workflow.nodes[cycle[0]]
    name = next(name for name, link in sources(first) if link.node == cycle[1 % len(cycle)])
    return NodeProblem("dependency_cycle", first.id, first.class_type, name, None, message)


class _Checker:
    """Checks node by node; of one node it finds everything."""

    def __init__(self, workflow: Workflow, specs: Mapping[str, NodeSpec], custom: CustomCheck | None):
        self._nodes = workflow.nodes
        self._specs = specs
        self._custom = custom

    def check(self, node: GraphNode) -> tuple[CheckedNode, list[NodeProblem]]:
        spec = self._specs.get(node.class_type)
        if spec is None:
            return CheckedNode(node.id, node.class_type, {}), [self._unknown_class(node)]
        values: dict[str, Any] = {}
        problems = list(self._unknown_inputs(node, spec))
        for name, declared in spec.inputs.items():
            try:
                if name in node.inputs:
                    values[name] = self._fit(node.inputs[name], declared)
                elif not declared.optional:
                    raise Unfit("required_input_missing", f"is missing; it takes {declared.allowed}")
            except Unfit as err:
                problems.append(_problem(node, name, declared, err))
        problems += self._custom_problems(node, values)
        return CheckedNode(node.id, node.class_type, values), problems

    def _unknown_class(self, node: GraphNode) -> NodeProblem:
        near = get_close_matches(node.class_type, self._specs, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"class {shown(node.class_type)} is not supported{hint}"
        return NodeProblem("missing_node_type", node.id, node.class_type, "", node.class_type, message)

    def _unknown_inputs(self, node: GraphNode, spec: NodeSpec) -> Iterator[NodeProblem]:
        for name, value in node.inputs.items():
            if name in spec.inputs or name in EDITOR_LEFTOVERS:
                continue
            near = get_close_matches(name, spec.inputs, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(spec.inputs) or 'none'}"
            field_name = name if name.isprintable() else ascii(name)
            given = _as_data(value)
            message = f"{node.class_type} has no such input; {hint}"
            yield NodeProblem("unknown_input", node.id, node.class_type, field_name[:64], given, message)

    def _fit(self, value: object, declared: Input) -> Any:
        if isinstance(value, Link):
            return self._fit_link(value, declared)
        if isinstance(value, list | dict) and declared.kind not in PLAIN:
            message = f"{shown(value)} is no link; a link is [node id, output slot]"
            raise Unfit("bad_linked_input", message)
        return declared.fit(value)

    def _fit_link(self, link: Link, declared: Input) -> Link:
        if link.node not in self._nodes:
            near = get_close_matches(link.node, self._nodes, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Unfit("bad_linked_input", f"is linked to node {shown(link.node)}, which is missing{hint}")
        source = self._nodes[link.node]
        spec = self._specs.get(source.class_type)
        if spec is None:
            return link  # that node is a problem of its own
        if not 0 <= link.slot < len(spec.outputs):
            has = ", ".join(f"{k} ({kind})" for k, kind in enumerate(spec.outputs)) or "none"
            message = f"is linked to output {link.slot} of node {shown(link.node)} ({source.class_type}), "
            raise Unfit("bad_linked_input", message + f"whose outputs are {has}")
        kind = spec.outputs[link.slot]
        if kind != declared.kind:
            message = f"takes {declared.kind}, but is linked to {kind} of node {shown(link.node)}"
            raise Unfit("return_type_mismatch", message)
        return link

    def _custom_problems(self, node: GraphNode, values: Mapping[str, Any]) -> Iterator[NodeProblem]:
        if self._custom is None:
            return
        plain = {name: value for name, value in values.items() if not isinstance(value, Link)}
        for name, message in self._custom(node.class_type, plain):
            value = plain.get(name)
            yield NodeProblem("custom_validation_failed", node.id, node.class_type, name, value, message)


def _problem(node: GraphNode, name: str, declared: Input, err: Unfit) -> NodeProblem:
    value = node.inputs.get(name)
    told = (
        f"{shown(value)} {err}" if name in node.inputs and not isinstance(value, Link | list | dict) else err
    )
    extra = {"input_config": declared.config()}
    return NodeProblem(err.kind, node.id, node.class_type, name, _as_data(value), str(told), extra)


def _as_data(value: Any) -> Any:
    return [value.node, value.slot] if isinstance(value, Link) else value
