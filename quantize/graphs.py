"""ONNX files on disk: loading, naming, and weights in one aligned file beside the graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import set_external_data

PAGE = 4096
CACHE_LINE = 64
INLINE_BELOW = 1024  # bytes; shape inference must be able to read the small ones
PAGE_ALIGN_FROM = 64 * 1024
LAYER_OPS = ("Conv", "MatMul", "Gemm")


def save_graph(model: ModelProto, path: Path) -> list[Path]:
    """Write a graph and, in `<path>.data`, its weights: aligned, so that they can be memory-mapped.

    Weights of 64 KiB and more start on pages, the smaller ones on cache lines; what is below 1 KiB stays
    in the graph, but for what layers multiply with and add: a device can replace only what lies beside the
    graph. The model loses its weights by it.

    Returns:
        The files written.
    """
    data_path = path.with_name(path.name + ".data")
    files = [path]
    layer_tensors = _layer_tensors(model)
    with data_path.open("wb") as data:
        for tensor in model.graph.initializer:
            raw = _raw_bytes(tensor)
            if len(raw) < INLINE_BELOW and tensor.name not in layer_tensors:
                continue
            offset = _pad(data, PAGE if len(raw) >= PAGE_ALIGN_FROM else CACHE_LINE)
            data.write(raw)
            set_external_data(tensor, data_path.name, offset=offset, length=len(raw))
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    if data_path.stat().st_size:
        files.append(data_path)
    else:
        data_path.unlink()
    path.write_bytes(model.SerializeToString())
    return files


def _layer_tensors(model: ModelProto) -> set[str]:
    """Weights and biases of layers as they are stored: with scales, or in half precision."""
    by_output = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    for node in model.graph.node:
        for name in node.input[1:3] if node.op_type in LAYER_OPS else ():
            unfold = by_output.get(name)
            stored = unfold is not None and unfold.op_type in ("DequantizeLinear", "Cast")
            found.update(unfold.input[:2] if stored and unfold is not None else [name])
    return found


def _pad(data: object, alignment: int) -> int:
    offset = data.tell()  # type: ignore[attr-defined]
    padding = -offset % alignment
    data.write(bytes(padding))  # type: ignore[attr-defined]
    return int(offset + padding)


def _raw_bytes(tensor: TensorProto) -> bytes:
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    return tensor.raw_data


def load_graph(path: Path, weights: bool = True) -> ModelProto:
    """Read a graph, with or without the weights that lie beside it."""
    return onnx.load(str(path), load_external_data=weights)


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Weights by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def weight_name(node: NodeProto, weights: dict[str, TensorProto]) -> str | None:
    """The weight of a Conv, MatMul or Gemm; None when it multiplies two activations."""
    if node.op_type in LAYER_OPS and len(node.input) > 1 and node.input[1] in weights:
        return str(node.input[1])
    return None


def layers(model: ModelProto) -> list[str]:
    """Names of all nodes that multiply with weights, in graph order."""
    weights = initializers(model)
    return [node.name for node in model.graph.node if weight_name(node, weights)]


def graph_bytes(path: Path) -> int:
    """Bytes of a graph and the weights beside it, as `save_graph` writes them."""
    data = path.with_name(path.name + ".data")
    return sum(file.stat().st_size for file in (path, data) if file.exists())


def size_bytes(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def op_counts(model: ModelProto) -> dict[str, int]:
    """How many nodes of each operator a graph has."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def annotate_types(model: ModelProto) -> ModelProto:
    """Shapes and types of all tensors, as far as ONNX knows them; what was noted before is found anew.

    ONNX does not know ONNX Runtime's own operators and would stop there. The results of those that are
    written here have the type and shape of the first input: for the inference `Identity` stands in.
    """
    nodes = list(model.graph.node)
    noted = {value.name: value for value in model.graph.value_info}
    foreign = [name for n in nodes if n.domain and n.op_type not in SAME_SHAPE for name in n.output]
    stand_in = ModelProto()
    stand_in.CopyFrom(model)
    del stand_in.graph.node[:], stand_in.graph.value_info[:]
    stand_in.graph.node.extend(same for node in nodes for same in _stand_ins(node))
    stand_in.graph.value_info.extend(noted[name] for name in foreign if name in noted)
    inferred = onnx.shape_inference.infer_shapes(stand_in, data_prop=True)
    del inferred.graph.node[:]
    inferred.graph.node.extend(nodes)
    return inferred


SAME_SHAPE = ("MultiHeadAttention", "SkipLayerNormalization", "QuickGelu", "Gelu")


def _stand_ins(node: NodeProto) -> Iterator[NodeProto]:
    if not node.domain or node.op_type not in SAME_SHAPE:
        yield node
        return
    for name in filter(None, node.output):
        yield onnx.helper.make_node("Identity", [node.input[0]], [name], name=name)
