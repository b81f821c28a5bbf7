"""What rules see of a graph, and what is written of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.engine.operators.graph import DOMAIN, INT8, Graph, make_node


def graph_of(nodes: list[onnx.NodeProto], *tensors: onnx.TensorProto) -> Graph:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], list(tensors))
    return Graph(made.SerializeToString(), Path())


def chain() -> list[onnx.NodeProto]:
    """x -> a -> b -> y, and a value that nobody takes."""
    steps = [("x", "a"), ("a", "b"), ("b", "y"), ("a", "unused")]
    return [helper.make_node("Softmax", [start], [end], axis=-1) for start, end in steps]


def written(graph: Graph) -> onnx.GraphProto:
    return onnx.GraphProto.FromString(graph.written())


def test_who_makes_and_who_takes_what() -> None:
    graph = graph_of(chain())
    assert [node.operator for node in graph.nodes] == ["Softmax"] * 4
    assert graph.maker("b") is graph.nodes[1]
    assert graph.maker("x") is None
    assert graph.only_taker("x") is graph.nodes[0]
    assert graph.only_taker("a") is None, "two take it"
    assert graph.only_taker("y") is None, "it is what the graph gives"
    assert graph.nodes[0].attributes == {"axis": -1}


def test_what_nobody_takes_any_more_is_not_written() -> None:
    graph = graph_of(chain())
    last = graph.nodes[2]
    graph.replace(last, make_node("Mine", ["x", "scale"], last.outputs))
    assert graph.is_changed
    (node,) = written(graph).node
    assert (node.domain, node.op_type, list(node.input)) == (DOMAIN, "Mine", ["x", "scale"])
    assert list(node.output) == ["y"]


def test_graphs_within_nodes_take_what_they_do_not_name() -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["unused"], ["z"])], "inner", [], [])
    either = helper.make_node("If", ["condition"], ["w"], then_branch=inner, else_branch=inner)
    graph = graph_of([*chain(), either])
    assert graph.only_taker("x") is None, "who knows"
    graph.replace(graph.nodes[2], make_node("Mine", ["x"], ["y"]))
    assert len(written(graph).node) == 5


def test_constants() -> None:
    weights = numpy_helper.from_array(np.arange(6, dtype=np.int8).reshape(2, 3), "w")
    listed = helper.make_tensor("f", TensorProto.FLOAT, [], [0.5])
    graph = graph_of(chain(), weights, listed, numpy_helper.from_array(np.float32(0.25), "raw"))
    tensor = graph.tensor("w")
    assert (tensor.sides, tensor.type, tensor.raw) == ([2, 3], INT8, bytes(range(6)))
    assert tensor.scalar is None
    assert [graph.tensor(name).scalar for name in ("f", "raw")] == [0.5, 0.25]
    assert graph.tensor("x") is None


@pytest.mark.parametrize("junk", [b"\x0a\xff\x7f", b"\x0a\x05\x22\x09ab"])
def test_what_is_no_graph_is_an_error(junk: bytes) -> None:
    with pytest.raises(ValueError):
        Graph(junk, Path())
