"""Weights in 8 bits, one scale an output channel: whole weights at once.

ONNX Runtime's quantizer does the same channel by channel, which for a large denoiser is most of its time. It
is told the scales instead (its option `TensorQuantOverrides`) and leaves QuantizeLinear in the graph
(`AddQDQPairToWeight`); those are computed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX, get_qmin_qmax_for_qType

from .graphs import initializers, weight_name

Overrides = dict[str, list[dict[str, Any]]]


def channel_axis(node: NodeProto) -> int:
    """The axis of a layer's weight that counts its outputs."""
    is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or is_transposed else 1


def channel_scales(weight: np.ndarray, axis: int, seven_bits: bool) -> np.ndarray:
    """(channels,) in the weight's dtype: symmetric, a channel's largest weight at the end of the range."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.maximum(-weight.min(axis=others, initial=0), weight.max(axis=others, initial=0))
    low, high = get_qmin_qmax_for_qType(TensorProto.INT8, reduce_range=seven_bits, symmetric=True)
    scales = 2.0 * largest.astype(np.float64) / (float(high) - float(low))
    usable = scales >= np.finfo(weight.dtype).tiny
    return np.where(usable, scales, 1.0).astype(weight.dtype)


def scale_overrides(model: ModelProto, names: Iterable[str], seven_bits: bool) -> Overrides:
    """For the quantizer: the scales of the weights of layers; one weight at a time is in memory."""
    weights, wanted, found = initializers(model), set(names), Overrides()
    for node in model.graph.node:
        name = weight_name(node, weights) if node.name in wanted else None
        if name and name not in found:
            axis = channel_axis(node)
            scales = channel_scales(numpy_helper.to_array(weights[name]), axis, seven_bits)
            found[name] = [{"axis": axis, "scale": s, "zero_point": np.int8(0)} for s in scales]
    return found


def rounded(weight: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """int8 of the weight's shape."""
    steps = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(np.rint(weight / steps), -128, 127).astype(np.int8)


def fold_weight_rounding(model: ModelProto) -> None:
    """Replace every QuantizeLinear of a weight by the weight in 8 bits, `<weight>_quantized`."""
    weights, kept, folded = initializers(model), [], dict[str, str]()
    for node in model.graph.node:
        axis = _rounded_axis(node)
        if axis is None or node.input[0] not in weights:
            kept.append(node)
            continue
        name = str(node.input[0])
        weight, scales = (numpy_helper.to_array(weights[n]) for n in node.input[:2])
        folded[node.output[0]] = name + TENSOR_NAME_QUANT_SUFFIX
        bits = rounded(weight, scales, axis)
        model.graph.initializer.append(numpy_helper.from_array(bits, folded[node.output[0]]))
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = folded.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _rounded_axis(node: NodeProto) -> int | None:
    """The axis of a QuantizeLinear with a scale a channel; activations have one scale for all."""
    axes = [a.i for a in node.attribute if a.name == "axis"] if node.op_type == "QuantizeLinear" else []
    return next(iter(axes), None)
