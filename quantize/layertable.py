"""The table of a graph's layers: where a device, which has no onnx library, finds the weights to change.

`layers.json` beside a graph lists every Conv, MatMul and Gemm with weights: the module it was in PyTorch and
where its tensors lie in the data file. `edgegen.engine.lora.table` reads it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from edgegen.pack import LAYER_TABLE

from .graphs import LAYER_OPS, initializers, load_graph

ADAPTABLE = ("unet", "text_encoder", "text_encoder_2")
DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
}
_SLICED = re.compile(r"_(\d+)_(\d+)$")  # as the rule `sliced-linear` names its parts


def write_layer_table(graph: Path) -> Path | None:
    """Write `layers.json` beside a graph that `save_graph` wrote; None when no layer can be named."""
    model = load_graph(graph, weights=False)
    tensors = _Tensors(model, graph.parent)
    table = [entry for node in model.graph.node if (entry := _entry(node, tensors))]
    if not table:
        return None
    _drop_shared_biases(table)
    path = graph.with_name(LAYER_TABLE)
    text = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in table)
    path.write_text(f'{{"version":1,"data":"{graph.name}.data","layers":[\n{text}\n]}}\n', "utf-8")
    return path


class _Tensors:
    """A graph's weights: where they lie, and what is between them and the node that reads them."""

    def __init__(self, model: ModelProto, folder: Path):
        self.weights = initializers(model)
        self.by_output = {name: node for node in model.graph.node for name in node.output}
        self.folder = folder

    def source(self, name: str) -> tuple[str, NodeProto | None]:
        """The initializer behind a name and the DequantizeLinear or Cast between; else the name itself."""
        node = self.by_output.get(name)
        if node is not None and node.op_type in ("DequantizeLinear", "Cast"):
            return str(node.input[0]), node
        return name, None

    def place(self, name: str) -> dict[str, Any] | None:
        """Name, type, shape and offset; None for what does not lie in the data file."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_location != TensorProto.EXTERNAL or tensor.data_type not in DTYPES:
            return None
        where = {item.key: item.value for item in tensor.external_data}
        return {
            "name": name,
            "dtype": DTYPES[tensor.data_type],
            "shape": list(tensor.dims),
            "offset": int(where.get("offset", 0)),
        }

    def values(self, name: str) -> np.ndarray:
        tensor = TensorProto()
        tensor.CopyFrom(self.weights[name])
        load_external_data_for_tensor(tensor, str(self.folder))
        return numpy_helper.to_array(tensor)


def _entry(node: NodeProto, tensors: _Tensors) -> dict[str, Any] | None:
    """One layer; None for what multiplies no stored weights, or has them where they cannot be replaced."""
    if node.op_type not in LAYER_OPS or len(node.input) < 2:
        return None
    name, unfold = tensors.source(node.input[1])
    weight = tensors.place(name)
    if weight is None or not (module := module_of(node.name)):
        return None
    entry: dict[str, Any] = {
        "module": module[0],
        "outputs_first": node.op_type == "Conv" or bool(_attributes(node).get("transB")),
        "weight": weight,
    }
    if module[1]:
        entry["rows"] = module[1]
    if weight["dtype"] == "int8":
        if unfold is None or not _describe_scales(entry, unfold, tensors):
            return None
        _describe_bias(entry, node, tensors)
    return entry


def module_of(node_name: str) -> tuple[str, list[int] | None] | None:
    """`/unet/down_blocks.0/resnets.0/conv1/Conv` -> `down_blocks.0.resnets.0.conv1` and, for a part of a
    layer, the outputs it has: first, and one behind the last. None: no name of the tracing exporter."""
    parts = node_name.strip("/").split("/")
    if len(parts) < 3:
        return None
    sliced = _SLICED.search(parts[-1])
    rows = [int(sliced[1]), int(sliced[2])] if sliced else None
    return ".".join(parts[1:-1]), rows


def _attributes(node: NodeProto) -> dict[str, Any]:
    def value(attribute: AttributeProto) -> Any:
        return helper.get_attribute_value(attribute)

    return {attribute.name: value(attribute) for attribute in node.attribute}


def _describe_scales(entry: dict[str, Any], unfold: NodeProto, tensors: _Tensors) -> bool:
    """Scales of an INT8 weight, one an output, and the greatest value its integers take."""
    scale = tensors.place(str(unfold.input[1]))
    outputs = entry["weight"]["shape"][0 if entry["outputs_first"] else -1]
    if scale is None or scale["shape"] != [outputs]:
        return False
    values = tensors.values(str(unfold.input[0]))
    entry["scale"] = scale
    entry["limit"] = max(1, int(np.abs(values.astype(np.int16)).max(initial=0)))
    return True


def _describe_bias(entry: dict[str, Any], node: NodeProto, tensors: _Tensors) -> None:
    """An INT32 bias counts in steps of the input's times the weight's scale, so it changes with that."""
    if len(node.input) < 3:
        return
    name, unfold = tensors.source(node.input[2])
    if unfold is None or unfold.op_type != "DequantizeLinear":
        return
    bias, scale = tensors.place(name), tensors.place(str(unfold.input[1]))
    entry["bias"] = [bias, scale] if bias and scale else None


def _drop_shared_biases(table: list[dict[str, Any]]) -> None:
    """A bias that several layers share cannot change with one of them: null keeps its layer's scales."""
    names = Counter(place["name"] for entry in table for place in entry.get("bias") or ())
    for entry in table:
        if any(names[place["name"]] > 1 for place in entry.get("bias") or ()):
            entry["bias"] = None
