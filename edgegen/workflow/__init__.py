"""Workflows: ComfyUI graphs in API format, parsed, checked and put in order. Pure: data in, data out."""

from .catalogue import catalogue
from .check import CheckedNode, CheckedWorkflow, check_workflow
from .declare import Input, NodeSpec
from .parse import GraphNode, Link, Workflow, parse_workflow
from .placeholders import fill_placeholders, override_inputs, placeholders_of
from .problems import BadWorkflow, NodeProblem

__all__ = [
    "BadWorkflow",
    "CheckedNode",
    "CheckedWorkflow",
    "GraphNode",
    "Input",
    "Link",
    "NodeProblem",
    "NodeSpec",
    "Workflow",
    "catalogue",
    "check_workflow",
    "fill_placeholders",
    "override_inputs",
    "parse_workflow",
    "placeholders_of",
]
