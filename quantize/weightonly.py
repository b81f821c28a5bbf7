"""Weights in 8 or 4 bits, activations float: for memory, where INT8's noise is too much or not wanted.

MatMul and Gemm become com.microsoft MatMulNBits, whose kernel unfolds blocks of weights as it multiplies.
Conv has no such kernel: its weights are 8 bits with a scale for each output channel either way, unfolded
by a DequantizeLinear when the layer runs; ONNX Runtime does not fold those when it loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

from .graphs import initializers, save_graph, weight_name, weights_read_from
from .rewrites import drop_unused_weights, int8_embeddings, stamp, weights_as_fp16

WEIGHT_BITS = {"w8": 8, "w4": 4}  # by the pack's precision
BLOCK = 32  # weights that share a scale and a zero point
SMALLEST = 4096  # weights; below, a layer saves nothing worth a node
_DOMAIN = "com.microsoft"
_PACKERS = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}


def convert_weight_only(graph: Path, out: Path, bits: int, version: str) -> None:
    """Write a float32 graph with its weights in 8 or 4 bits, embeddings in 8, all else large in FP16."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out = out.absolute()
    with weights_read_from(graph) as model:
        kept = weights_in_bits(model, bits)
        int8_embeddings(model)
        gathered = {name for node in model.graph.node if node.op_type == "Gather" for name in node.input}
        weights_as_fp16(model, keep=kept | gathered)
        stamp(model, version)
        save_graph(model, out)


def weights_in_bits(model: ModelProto, bits: int) -> set[str]:
    """Pack the weights of all layers.

    Args:
        model: float32, changed in place.
        bits: 8 or 4, of MatMul and Gemm.
    Returns:
        Names of the new scales, weights and zero points.
    """
    weights, before = initializers(model), set(initializers(model))
    nodes: list[NodeProto] = []
    unfolded: list[NodeProto] = []
    for node in model.graph.node:
        name = weight_name(node, weights)
        if name is None or int(np.prod(weights[name].dims)) < SMALLEST:
            nodes.append(node)
        elif node.op_type == "Conv":
            unfolded += _unfolding(model, weights[name])
            node.input[1] = f"{name}_float"
            nodes.append(node)
        else:
            nodes += _packed_product(model, node, numpy_helper.to_array(weights[name]), bits)
    del model.graph.node[:]
    model.graph.node.extend([*unfolded, *nodes])
    drop_unused_weights(model)
    if _DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return set(initializers(model)) - before


def _unfolding(model: ModelProto, weight: TensorProto) -> Iterator[NodeProto]:
    """DequantizeLinear of a Conv's weight, once however many layers share it."""
    name = f"{weight.name}_float"
    if any(tensor.name == f"{weight.name}_int8" for tensor in model.graph.initializer):
        return
    values = numpy_helper.to_array(weight)
    scales = np.abs(values).reshape(len(values), -1).max(axis=1).astype(np.float32) / 127
    scales[scales == 0] = 1
    rounded = np.rint(values / scales.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    inputs = _add(model, {f"{weight.name}_int8": rounded, f"{weight.name}_scale": scales})
    yield helper.make_node("DequantizeLinear", inputs, [name], f"{name}_dq", axis=0)


def _packed_product(model: ModelProto, node: NodeProto, weight: np.ndarray, bits: int) -> Iterator[NodeProto]:
    """MatMulNBits for a MatMul or a Gemm; a Gemm's bias is added after it."""
    matrix = weight.T if _is_transposed(node) else weight
    rows, columns = matrix.shape
    packed = _pack(np.ascontiguousarray(matrix, np.float32), bits)
    parts = dict(zip(("bits", "scales", "zeros"), packed, strict=True))
    inputs = _add(model, {f"{node.name}_{part}": value for part, value in parts.items()})
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
    product = f"{node.output[0]}_product" if bias else node.output[0]
    yield helper.make_node(
        "MatMulNBits",
        [node.input[0], *inputs],
        [product],
        node.name,
        domain=_DOMAIN,
        K=rows,
        N=columns,
        bits=bits,
        block_size=BLOCK,
    )
    if bias:
        yield helper.make_node("Add", [product, bias], [node.output[0]], f"{node.name}_bias")


def _is_transposed(node: NodeProto) -> bool:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA"):
        raise ValueError(f"{node.name}: a Gemm with alpha, beta or transA is not packed: {attributes}")
    return bool(attributes.get("transB"))


def _pack(matrix: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, N) float32 -> weights (N, blocks, bytes) uint8, scales (N * blocks,) float32, zero points uint8."""
    rows, columns = matrix.shape
    blocks = -(-rows // BLOCK)
    padded = np.pad(matrix, ((0, blocks * BLOCK - rows), (0, 0)))
    packed = np.zeros((columns, blocks, BLOCK * bits // 8), np.uint8)
    zeros = np.zeros((columns, -(-blocks * bits // 8)), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    _PACKERS[bits](packed, padded, scales, zeros, BLOCK, columns, rows, False)
    return packed, scales.reshape(-1), zeros.reshape(-1)


def _add(model: ModelProto, arrays: dict[str, np.ndarray]) -> list[str]:
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    return list(arrays)
