"""A denoiser's second graph, with inputs for what ControlNets add; it reads the first's weights.

A UNet's skip connections end in one Concat each on its way up. ControlNets add to what comes over a skip
connection, not to what goes on downwards, and to the middle's result before the first Concat: so the inputs
can be put there, in a graph of any precision, and nothing else changes.
"""

from __future__ import annotations

from pathlib import Path

from onnx import GraphProto, NodeProto, TensorProto, helper

from edgegen.errors import EdgegenError

from .graphs import load_graph

CONTROL = "control.onnx"
DOWN, MID = "down_residual_{}", "mid_residual"
_WORDS = "encoder_hidden_states"


class ControlError(EdgegenError, ValueError):
    """The denoiser is none that ControlNets can speak to."""

    code = "bad_control"
    exit_code = 5


def add_control(graph: Path) -> int:
    """Write `control.onnx` beside a denoiser's graph: the same with inputs `down_residual_0`, .., in
    ControlNetModel's order, and `mid_residual`, all (b, c, h, w) float32.

    Returns:
        How many of the first there are.
    Raises:
        ControlError: the graph is no UNet with skip connections.
    """
    model = load_graph(graph, weights=False)
    ends = _skip_ends(model.graph)
    if not ends:
        raise ControlError(f"{graph} has no skip connections: a ControlNet has nowhere to speak")
    names = [DOWN.format(len(ends) - 1 - k) for k in range(len(ends))]  # up reads them last to first
    nodes = list(model.graph.node)
    added = {k: [_add(nodes[k], 1, name)] for k, name in zip(ends, names, strict=True)}
    added[ends[0]].append(_add(nodes[ends[0]], 0, MID))
    del model.graph.node[:]
    model.graph.node.extend(node for k, old in enumerate(nodes) for node in (*added.get(k, ()), old))
    for name in (*reversed(names), MID):
        free = [f"{name}_{axis}" for axis in ("channels", "height", "width")]
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *free]))
    graph.with_name(CONTROL).write_bytes(model.SerializeToString())
    return len(ends)


def _skip_ends(graph: GraphProto) -> list[int]:
    """Places of the Concats of features, top to bottom of the way up: those whose first input has seen the
    words. They form a chain, so that every sorted graph has them in this order."""
    seen, found = {_WORDS}, []
    for k, node in enumerate(graph.node):
        if seen.isdisjoint(node.input):
            continue
        seen.update(node.output)
        axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), None)
        if node.op_type == "Concat" and axis == 1 and len(node.input) == 2 and node.input[0] in seen:
            found.append(k)
    return found


def _add(end: NodeProto, which: int, name: str) -> NodeProto:
    """Adds an input of the graph to one of a node's inputs."""
    told = f"{name}_sum"
    node = helper.make_node("Add", [end.input[which], name], [told], name=f"/control/{name}")
    end.input[which] = told
    return node
