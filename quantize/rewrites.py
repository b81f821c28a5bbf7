"""Changes to a graph's weights; each is tested to compute the same before and after."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .graphs import initializers, save_graph, weights_read_from

FP16_FROM_BYTES = 1024  # smaller ones save nothing worth a node
EMBEDDING_FROM_BYTES = 16 * 1024
_FP16_MAX = 65504.0


def weights_as_fp16(model: ModelProto, keep: Collection[str] = ()) -> int:
    """Store float weights as FP16, each followed by a Cast back; inputs and outputs stay float32.

    Kernels compute in float32 as before: ONNX Runtime folds the Casts when it loads.

    Args:
        model: changed in place.
        keep: names of weights to leave alone; those beyond FP16's range are left alone too.
    Returns:
        How many weights were changed.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in keep:
            continue
        values = numpy_helper.to_array(tensor)
        if values.nbytes < FP16_FROM_BYTES or np.abs(values).max() > _FP16_MAX:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT))
    _prepend(model, casts)
    return len(casts)


def leftovers_as_fp16(model: ModelProto) -> int:
    """Store what stayed float in an 8-bit graph as FP16; returns how many weights were changed."""
    return weights_as_fp16(model, keep=quantization_parameters(model))


def quantization_parameters(model: ModelProto) -> set[str]:
    """Weights, scales and zero points of quantized tensors, and scales of embedding rows."""
    kinds = ("QuantizeLinear", "DequantizeLinear", "Gather")
    return {name for node in model.graph.node if node.op_type in kinds for name in node.input}


def int8_embeddings(model: ModelProto) -> int:
    """Store embedding tables as INT8 with one scale per row: a Gather of rows and one of their scales.

    Only the rows that are looked up become float, at run time: no runtime can unfold the table at load.

    Returns:
        How many tables were changed.
    """
    weights = initializers(model)
    changed: dict[str, tuple[str, str]] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or not _is_embedding(table):
            nodes.append(node)
            continue
        if table.name not in changed:
            changed[table.name] = _quantize_rows(model, table)
        nodes += _lookup(node, *changed[table.name])
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        drop_unused_weights(model)
    return len(changed)


def _is_embedding(table: TensorProto) -> bool:
    is_float_matrix = table.data_type == TensorProto.FLOAT and len(table.dims) == 2
    return is_float_matrix and 4 * table.dims[0] * table.dims[1] >= EMBEDDING_FROM_BYTES


def _quantize_rows(model: ModelProto, table: TensorProto) -> tuple[str, str]:
    values = numpy_helper.to_array(table)
    scales = np.abs(values).max(axis=1, keepdims=True).astype(np.float32) / 127
    rows = np.rint(values / np.where(scales > 0, scales, 1)).astype(np.int8)
    names = f"{table.name}_int8", f"{table.name}_scale"
    for array, name in zip((rows, scales), names, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return names


def _lookup(gather: NodeProto, rows: str, scales: str) -> list[NodeProto]:
    ids, out, name = gather.input[1], gather.output[0], gather.name
    return [
        helper.make_node("Gather", [rows, ids], [f"{out}_int8"], f"{name}_rows", axis=0),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [scales, ids], [f"{out}_scale"], f"{name}_scales", axis=0),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out], f"{name}_mul"),
    ]


def drop_unused_weights(model: ModelProto) -> None:
    """Remove weights that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def _prepend(model: ModelProto, nodes: list[NodeProto]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def stamp(model: ModelProto, producer_version: str, keep_shapes: bool = False) -> None:
    """Say who made the graph, and nothing of where.

    Args:
        keep_shapes: of tensors between nodes. ONNX Runtime fuses more when it is told them; wrong where
            8 or 16 bits took the place of float32.
    """
    model.producer_name, model.producer_version = "edgegen-quantize", producer_version
    model.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    if not keep_shapes:
        del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {"edgegen": producer_version})


def copy_stamped(graph: Path, out: Path, version: str) -> None:
    """A float32 graph into a pack, saying by which edgegen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out = out.absolute()
    with weights_read_from(graph) as model:
        stamp(model, version, keep_shapes=True)
        save_graph(model, out)
