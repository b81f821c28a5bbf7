"""SmoothQuant for graphs: large channels of a norm's result are made small, and the weights after it large.

Xiao et al. 2022, "SmoothQuant", eq. 4, for every LayerNormalization whose result only MatMuls with weights
read. What it gains is in docs/BENCHMARKS.md; the quantizer does without it so far.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quantize.calibrate import Records
from quantize.graphs import initializers, load_graph, weight_name
from quantize.runner import open_session

_SUFFIX = "/channels"


def smooth(model: ModelProto, maxima: dict[str, np.ndarray], alpha: float) -> int:
    """Migrate scales from norms into the weights after them; the float result stays the same.

    Args:
        model: with weights; changed in place.
        maxima: of `channel_maxima`.
        alpha: 0 leaves activations as they are, 1 makes all their channels alike.
    Returns:
        How many norms were changed.
    """
    weights, changed = initializers(model), 0
    for norm, readers in smoothable(model).items():
        node = next(n for n in model.graph.node if norm in n.output)
        matrices = [numpy_helper.to_array(weights[r.input[1]]) for r in readers]
        largest = np.max([np.abs(m).max(axis=1) for m in matrices], axis=0)
        scales = np.maximum(maxima[norm], 1e-5) ** alpha / np.maximum(largest, 1e-5) ** (1 - alpha)
        for i in range(1, len(node.input)):
            _replace(model, node, i, numpy_helper.to_array(weights[node.input[i]]) / scales)
        for reader, matrix in zip(readers, matrices, strict=True):
            _replace(model, reader, 1, matrix * scales[:, None])
        changed += 1
    return changed


def _replace(model: ModelProto, node: NodeProto, i: int, values: np.ndarray) -> None:
    """A weight of its own: equal ones of several layers were merged at export."""
    name = f"{node.name}/smooth_{i}"
    model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    node.input[i] = name


def smoothable(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Result of a norm -> the MatMuls that read it, where nobody else does."""
    weights = initializers(model)
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in model.graph.node:
        after = readers.get(node.output[0], []) if node.op_type == "LayerNormalization" else []
        if after and all(r.op_type == "MatMul" and weight_name(r, weights) for r in after):
            found[node.output[0]] = after
    return found


def channel_maxima(graph: Path, records: Records) -> dict[str, np.ndarray]:
    """Result of a norm -> (channels,) largest magnitude over all records."""
    model = load_graph(graph, weights=False)
    names = list(smoothable(model))
    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        axes = numpy_helper.from_array(np.array([0, 1], np.int64), f"{name}/axes")
        model.graph.initializer.append(axes)
        reduce = [f"{name}/abs", axes.name]
        model.graph.node.append(helper.make_node("ReduceMax", reduce, [name + _SUFFIX], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(name + _SUFFIX, TensorProto.FLOAT, [None]))
    probe = graph.with_name("channels.onnx")
    probe.write_bytes(model.SerializeToString())
    session = open_session(probe)
    wanted = [name + _SUFFIX for name in names]
    rows = [session.run(wanted, feed) for feed in records]
    probe.unlink()
    return {name: np.max([row[i] for row in rows], axis=0) for i, name in enumerate(names)}
