"""Nodes that only say a value or change a text. They are worked out before a workflow is checked, so that
every bound and every list of words sees what they say, not that it comes from somewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .declare import BOOLEAN, FLOAT, INT, MAX_TEXT_CHARS, STRING, Input, NodeSpec, Unfit
from .parse import GraphNode, Link, Workflow

MOST = sys.maxsize
TEXT = Input(STRING, "")


@dataclass(frozen=True)
class Constant:
    """A class of such nodes.

    Attributes:
        kind: of its one output.
        value: what it says, from its inputs. Raises Unfit.
    """

    inputs: dict[str, Input]
    kind: str
    value: Callable[..., Any]


def _said(value: Any) -> Any:
    return value


def _joined(string_a: str, string_b: str, delimiter: str) -> str:
    return _bounded(len(string_a) + len(delimiter) + len(string_b), lambda: string_a + delimiter + string_b)


def _replaced(string: str, find: str, replace: str) -> str:
    length = len(string) + string.count(find) * (len(replace) - len(find))
    return _bounded(length, lambda: string.replace(find, replace))


def _bounded(length: int, make: Callable[[], str]) -> str:
    if length > MAX_TEXT_CHARS:
        raise Unfit("value_bigger_than_max", f"makes {length} characters; at most {MAX_TEXT_CHARS}")
    return make()


CONSTANTS = {
    "PrimitiveString": Constant({"value": TEXT}, STRING, _said),
    "PrimitiveStringMultiline": Constant({"value": TEXT}, STRING, _said),
    "PrimitiveInt": Constant({"value": Input(INT, 0, -MOST, MOST)}, INT, _said),
    "PrimitiveFloat": Constant({"value": Input(FLOAT, 0.0, -MOST, MOST)}, FLOAT, _said),
    "PrimitiveBoolean": Constant({"value": Input(BOOLEAN, False)}, BOOLEAN, _said),
    "StringConcatenate": Constant({"string_a": TEXT, "string_b": TEXT, "delimiter": TEXT}, STRING, _joined),
    "StringReplace": Constant({"string": TEXT, "find": TEXT, "replace": TEXT}, STRING, _replaced),
}
"""Source: ComfyUI's comfy_extras/nodes_primitive.py and nodes_string.py."""


def fold_constants(workflow: Workflow, specs: Mapping[str, NodeSpec]) -> Workflow:
    """Every link to such a node replaced by what the node says, where the input takes that kind of value.

    What cannot be worked out stays a link, for the check to tell why.
    """
    folding = _Folding(workflow.nodes)
    nodes = {
        node.id: replace(node, inputs=folding.inputs(node, specs[node.class_type].inputs))
        if node.class_type in specs
        else node
        for node in workflow.nodes.values()
    }
    return replace(workflow, nodes=nodes)


class _Folding:
    """What the nodes of a graph say, each worked out once."""

    def __init__(self, nodes: Mapping[str, GraphNode]):
        self._nodes = nodes
        self._known: dict[str, Any] = {}

    def inputs(self, node: GraphNode, declared: Mapping[str, Input]) -> dict[str, Any]:
        """A node's inputs with what is known of those that are linked."""
        return {
            name: self._known_value(value, declared[name].kind)
            if isinstance(value, Link) and name in declared
            else value
            for name, value in node.inputs.items()
        }

    def _known_value(self, link: Link, kind: str) -> Any:
        source = self._nodes.get(link.node)
        constant = CONSTANTS.get(source.class_type) if source else None
        if source is None or constant is None or link.slot != 0 or constant.kind != kind:
            return link
        if source.id not in self._known:
            self._known[source.id] = None  # in a circle nothing is known
            self._known[source.id] = self._said_by(source, constant)
        value = self._known[source.id]
        return link if value is None else value

    def _said_by(self, node: GraphNode, constant: Constant) -> Any:
        given = self.inputs(node, constant.inputs)
        try:
            fitted = {name: declared.fit(given.get(name)) for name, declared in constant.inputs.items()}
            return constant.value(**fitted)
        except Unfit:
            return None
