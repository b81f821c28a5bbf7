"""ONNX files on disk: loading, naming, and weights in one aligned file beside the graph."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data, uses_external_data

PAGE = 4096
CACHE_LINE = 64
INLINE_BELOW = 1024  # bytes; shape inference must be able to read the small ones
PAGE_ALIGN_FROM = 64 * 1024
LAYER_OPS = ("Conv", "MatMul", "Gemm")


def save_graph(
    model: ModelProto, path: Path, beside: Path | None = None, consume: bool = False
) -> list[Path]:
    """Write a graph and, in `<path>.data`, its weights: aligned, so that they can be memory-mapped.

    Weights of 64 KiB and more start on pages, the smaller ones on cache lines; what is below 1 KiB stays
    in the graph, but for what layers multiply with and add: a device can replace only what lies beside the
    graph. The model loses its weights by it.

    Args:
        beside: folder of weights that were left in their files (`load_graph` without weights), to be copied
            one at a time. None: the working folder, see `weights_read_from`. Never that of `path` itself.
        consume: remove each of those files once all that is wanted of it is copied, so that a disk need not
            hold two copies of all.
    Returns:
        The files written.
    """
    data_path = path.with_name(path.name + ".data")
    files = [path]
    layer_tensors = _layer_tensors(model)
    sources = _Sources(model, beside) if consume and beside else None
    with data_path.open("wb") as data:
        for tensor in model.graph.initializer:
            raw = _raw_bytes(tensor, str(beside or ""))
            if sources:
                sources.read(tensor)
            if len(raw) < INLINE_BELOW and tensor.name not in layer_tensors:
                _hold(tensor, raw)
                continue
            offset = _pad(data, PAGE if len(raw) >= PAGE_ALIGN_FROM else CACHE_LINE)
            data.write(raw)
            _hold(tensor, b"")  # the next line wants a tensor with bytes of its own
            set_external_data(tensor, data_path.name, offset=offset, length=len(raw))
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    if data_path.stat().st_size:
        files.append(data_path)
    else:
        data_path.unlink()
    path.write_bytes(model.SerializeToString())
    return files


class _Sources:
    """Files that weights are copied from; each is removed when the last of its weights was read."""

    def __init__(self, model: ModelProto, folder: Path):
        names = [_file_of(tensor) for tensor in model.graph.initializer]
        self._left, self._folder = Counter(name for name in names if name), folder

    def read(self, tensor: TensorProto) -> None:
        """One of a file's weights was copied."""
        if name := _file_of(tensor):
            self._left[name] -= 1
            if not self._left[name]:
                (self._folder / name).unlink()


def _file_of(tensor: TensorProto) -> str | None:
    places = (item.value for item in tensor.external_data if item.key == "location")
    return next(places, None) if uses_external_data(tensor) else None


def _hold(tensor: TensorProto, raw: bytes | memoryview) -> None:
    """The bytes inside the tensor, wherever they were."""
    tensor.raw_data = bytes(raw)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


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


def _raw_bytes(tensor: TensorProto, folder: str) -> bytes | memoryview:
    if uses_external_data(tensor):  # as they lie there: large ones are not copied once more
        values = np.ascontiguousarray(numpy_helper.to_array(tensor, folder))
        return values.reshape(-1).view(np.uint8).data
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return tensor.raw_data


def load_graph(path: Path, weights: bool = True) -> ModelProto:
    """Read a graph, with or without the weights that lie beside it."""
    return onnx.load(str(path), load_external_data=weights)


@contextlib.contextmanager
def weights_read_from(graph: Path) -> Iterator[ModelProto]:
    """A graph whose weights stay in their file: `numpy_helper.to_array` reads each when it is asked for.

    For graphs beyond memory. ONNX looks for such weights in the working folder, which is the graph's while
    the block runs: other paths must be absolute.
    """
    model = load_graph(graph, weights=False)
    with contextlib.chdir(graph.parent):
        yield model


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
