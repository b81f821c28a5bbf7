"""What is wrong with a workflow: for people one line a problem, for programs ComfyUI's `node_errors`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadRequest, Problem

SHOWN_CHARS = 80


def shown(value: object) -> str:
    """A value from outside in a message: one line, escaped, at most 80 characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


@dataclass(frozen=True)
class NodeProblem:
    """One problem.

    Attributes:
        kind: ComfyUI's `type`, as `value_bigger_than_max`.
        node_id, class_type: empty when the problem is the whole graph's.
        input_name: empty when the problem is the whole node's.
        value: what was given.
        message: what is wrong, and what is allowed.
        extra: more for `extra_info`.
    """

    kind: str
    node_id: str
    class_type: str
    input_name: str
    value: object
    message: str
    extra: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.node_id:
            return self.message
        where = f"node {self.node_id if self.node_id.isprintable() else ascii(self.node_id)}"
        where += f" ({self.class_type[:SHOWN_CHARS]})" if self.class_type else ""
        return f"{where} {self.input_name}: {self.message}" if self.input_name else f"{where}: {self.message}"

    def error(self) -> dict[str, Any]:
        """ComfyUI's shape of one error."""
        extra = {"input_name": self.input_name, "received_value": self.value} if self.input_name else {}
        details = f"{self.input_name}: {self.message}" if self.input_name else self.message
        return {
            "type": self.kind,
            "message": TITLES.get(self.kind, self.kind),
            "details": details,
            "extra_info": {**extra, **self.extra},
        }


TITLES = {
    "bad_linked_input": "A link must name a node and one of its outputs",
    "custom_validation_failed": "This input is refused here",
    "dependency_cycle": "Nodes wait for each other",
    "invalid_input_type": "This input has the wrong type",
    "invalid_prompt": "This is no workflow",
    "missing_node_type": "This class of node is not supported",
    "prompt_no_outputs": "The workflow has no output",
    "prompt_outputs_failed_validation": "The workflow cannot run as it is",
    "required_input_missing": "An input is missing",
    "return_type_mismatch": "The linked output is of another type",
    "unknown_input": "There is no such input",
    "value_bigger_than_max": "This value is too big",
    "value_not_in_list": "This value is none of those allowed",
    "value_smaller_than_min": "This value is too small",
}


class BadWorkflow(BadRequest):
    """A workflow that cannot run here; lists every problem at once.

    Attributes:
        found: the problems.
        outputs_of: node id -> the output nodes that depend on it.
    """

    def __init__(self, found: Sequence[NodeProblem], outputs_of: dict[str, list[str]] | None = None):
        self.found = list(found)
        self.outputs_of = outputs_of or {}
        super().__init__([Problem("", problem.value, str(problem)) for problem in found], "bad_workflow")

    @property
    def node_errors(self) -> dict[str, Any]:
        """ComfyUI's answer for nodes: {id: {errors, dependent_outputs, class_type}}."""
        nodes: dict[str, Any] = {}
        for problem in self.found:
            if problem.node_id:
                entry = {
                    "errors": [],
                    "dependent_outputs": self.outputs_of.get(problem.node_id, []),
                    "class_type": problem.class_type,
                }
                nodes.setdefault(problem.node_id, entry)["errors"].append(problem.error())
        return nodes

    def response(self) -> dict[str, Any]:
        """All that ComfyUI answers to a workflow it refuses: {error, node_errors}."""
        whole = next((p for p in self.found if not p.node_id), None)
        kind = "prompt_outputs_failed_validation"
        error = whole or NodeProblem(kind, "", "", "", None, f"{len(self.found)} problems")
        return {"error": error.error(), "node_errors": self.node_errors}


def whole(kind: str, message: str, value: object = None) -> BadWorkflow:
    """A refusal of the graph as such."""
    return BadWorkflow([NodeProblem(kind, "", "", "", value, message)])
