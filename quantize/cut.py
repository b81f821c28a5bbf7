"""Cutting a decoder in two where pictures grow: so that the large part may run piece by piece, exactly.

The last enlargement and what follows it work on tensors of the picture's own size, which at 512x512 is most
of a decoder's memory. In AutoencoderTiny each pixel there depends on few neighbours: tiles of the tail that
bring those along give the same numbers as the whole. A decoder with norms or attention behind its last
enlargement (KL) mixes the whole picture, and stays whole.

`head.onnx` and `tail.onnx` read the weights of the graph they were cut from; nothing is stored twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from .graphs import initializers, load_graph

HEAD, TAIL = "head.onnx", "tail.onnx"
SEAM = "features"
HALO, SCALE = "edgegen.halo", "edgegen.scale"  # the tail's metadata; edgegen.engine.decoding reads it
_POINTWISE = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Cast",
    "Identity",
    "QuantizeLinear",
    "DequantizeLinear",
    "Clip",
    "Relu",
} | {"LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Silu", "QuickGelu"}


def cut_decoder(graph: Path) -> bool:
    """Write `head.onnx` and `tail.onnx` beside a decoder's graph, when its tail works in tiles.

    The tail's metadata says how: `edgegen.halo`, the neighbours it needs on each side, in rows or columns of
    the seam; `edgegen.scale`, pixels for each of those.

    Returns:
        Whether it was cut; else nothing is written.
    """
    model = load_graph(graph, weights=False)
    seam = _last_enlargement(model.graph)
    if seam is None:
        return False
    tail = _upstream(model.graph, [o.name for o in model.graph.output], seam)
    head = _upstream(model.graph, [seam], None)
    radius, scale = _reach(model, tail, seam)
    if radius is None or scale < 2:
        return False
    value = helper.make_tensor_value_info(seam, TensorProto.FLOAT, [None] * 4)
    properties = {HALO: str(math.ceil(radius / scale)), SCALE: str(scale)}
    _write(model, head, list(model.graph.input), [value], {}, graph.with_name(HEAD), seam)
    _write(model, tail, [value], list(model.graph.output), properties, graph.with_name(TAIL), seam)
    return True


def _last_enlargement(graph: GraphProto) -> str | None:
    """What the last Resize enlarges; None without one."""
    return next((str(node.input[0]) for node in reversed(graph.node) if node.op_type == "Resize"), None)


def _upstream(graph: GraphProto, wanted: Iterable[str], stop: str | None) -> list[NodeProto]:
    """All nodes that the wanted tensors are made by, up to `stop`, in graph order."""
    needed = set(wanted)
    found = []
    for node in reversed(graph.node):  # graphs are sorted: readers come after what they read
        if needed.intersection(node.output) and stop not in node.output:
            found.append(node)
            needed.update(node.input)
    return found[::-1]


def _reach(model: ModelProto, nodes: list[NodeProto], seam: str) -> tuple[int | None, int]:
    """How far the tail looks around, in pixels of the result, and its enlargement; None: it looks at all."""
    weights = initializers(model)
    reach, scales = {seam: 0}, {seam: 1}
    for node in nodes:
        inputs = [name for name in node.input if name in reach]
        if not inputs:
            if not _only_weights(node, nodes, weights):
                return None, 1  # something else of the head is read here, too
            continue
        scale = max(scales[name] for name in inputs)
        factor, radius = _enlargement(node, weights), _radius(node, weights)
        if radius is None or factor is None or any(scales[name] != scale for name in inputs):
            return None, 1
        for output in node.output:
            scales[output] = scale * factor
            reach[output] = max(reach[name] for name in inputs) * factor + radius
    ends = [o.name for o in model.graph.output]
    return max(reach.get(name, 0) for name in ends), max(scales.get(name, 1) for name in ends)


def _only_weights(node: NodeProto, nodes: list[NodeProto], weights: dict[str, TensorProto]) -> bool:
    """Whether a node works on weights alone, through nodes of the tail."""
    by_output = {output: n for n in nodes for output in n.output}
    return all(
        not name or name in weights or (name in by_output and _only_weights(by_output[name], nodes, weights))
        for name in node.input
    )


def _enlargement(node: NodeProto, weights: dict[str, TensorProto]) -> int | None:
    """1; of a Resize that repeats pixels, how often; None of any other Resize."""
    if node.op_type != "Resize":
        return 1
    mode = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"), b"nearest")
    scales = weights.get(node.input[2]) if len(node.input) > 2 else None
    if mode != b"nearest" or scales is None:
        return None
    factors = onnx.numpy_helper.to_array(scales).tolist()
    whole = len(factors) == 4 and factors[2] == factors[3] and factors[2] == int(factors[2])
    return int(factors[2]) if whole and factors[:2] == [1, 1] else None


def _radius(node: NodeProto, weights: dict[str, TensorProto]) -> int | None:
    """How many neighbours on each side a node reads; None: too many to say."""
    if node.op_type == "Resize":
        return 0
    if node.op_type == "Conv":
        return _conv_radius({a.name: helper.get_attribute_value(a) for a in node.attribute})
    constants = (weights[name] for name in node.input if name in weights)
    flat = all(len(c.dims) < 3 or list(c.dims[-2:]) == [1, 1] for c in constants)
    return 0 if node.op_type in _POINTWISE and flat else None


def _conv_radius(given: dict[str, list[int]]) -> int | None:
    """Of a Conv that keeps its picture's size."""
    kernel, stride = given.get("kernel_shape", []), given.get("strides", [1, 1])
    sides = [(k - 1) * d // 2 for k, d in zip(kernel, given.get("dilations", [1, 1]), strict=True)]
    keeps = list(given.get("pads", [0] * 4)) == sides * 2 and list(stride) == [1, 1]
    return max(sides) if sides and keeps and all(k % 2 for k in kernel) else None


def _write(
    model: ModelProto,
    nodes: list[NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    properties: dict[str, str],
    path: Path,
    seam: str,
) -> None:
    """A graph of some of a model's nodes; the seam is called `features` in it."""
    part = ModelProto()
    part.CopyFrom(model)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, kept)
    for node in graph.node:
        node.input[:] = [SEAM if name == seam else name for name in node.input]
        node.output[:] = [SEAM if name == seam else name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = SEAM if value.name == seam else value.name
    part.graph.CopyFrom(graph)
    helper.set_model_props(part, {p.key: p.value for p in model.metadata_props} | properties)
    path.write_bytes(part.SerializeToString())
