"""Static 8-bit quantization: QuantizeLinear and DequantizeLinear around layers with weights.

Only Conv and the MatMul and Gemm that multiply with weights are quantized. Attention's own products, its
softmax, norms and activations stay float: in 8 bits they are slower on a CPU.

Weights are symmetric, one scale per output channel. For x86-64 activations are unsigned. CPUs without
VNNI add pairs of 8-bit products in 16 bits, which overflow: weights there get 7 bits (`reduce_range`).
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from .graphs import LAYER_OPS, layers
from .weightrounding import fold_weight_rounding, scale_overrides

Target = Literal["any", "x86-64", "arm64"]


@dataclass(frozen=True)
class Int8Format:
    """Number formats of one target."""

    activations: QuantType
    weights: QuantType
    seven_bit_weights: bool


FORMATS: dict[str, Int8Format] = {
    "x86-64": Int8Format(QuantType.QUInt8, QuantType.QInt8, seven_bit_weights=True),
    "arm64": Int8Format(QuantType.QInt8, QuantType.QInt8, seven_bit_weights=False),
    "any": Int8Format(QuantType.QUInt8, QuantType.QInt8, seven_bit_weights=True),
}


def quantize_layers(
    model: ModelProto, ranges: TensorsData, names: Iterable[str], number_format: Int8Format
) -> ModelProto:
    """A graph whose named layers compute in 8 bits.

    Args:
        model: float graph with its weights and annotated types; changed in place.
        ranges: of the activations, from `calibrate.tensor_ranges`.
        names: nodes to quantize; others stay as they are.
    """
    wanted = list(names)
    if not wanted:
        return model
    add_infer_metadata(
        model
    )  # types are annotated; else the quantizer would write and read all weights again
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=number_format.seven_bit_weights,
        weight_qType=number_format.weights,
        activation_qType=number_format.activations,
        tensors_range=ranges,
        nodes_to_quantize=wanted,
        nodes_to_exclude=[],
        op_types_to_quantize=list(LAYER_OPS),
        extra_options={
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            # results of MatMul and Gemm leave as float: the kernel offers it, and 8 bits would only add noise
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            "DefaultTensorType": TensorProto.FLOAT,
            "TensorQuantOverrides": scale_overrides(model, wanted, number_format.seven_bit_weights),
            "AddQDQPairToWeight": True,
        },
    )
    with contextlib.redirect_stdout(io.StringIO()):
        quantizer.quantize_model()
        fold_weight_rounding(quantizer.model.model)
        quantizer.model.clean_initializers()
        quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    floats_to_float_readers(quantized, set(wanted))
    return quantized


def floats_to_float_readers(model: ModelProto, quantized: set[str]) -> int:
    """Let only quantized layers read rounded inputs.

    The quantizer rounds a tensor for all that read it: a skip connection or a residual sum, too, where
    rounding costs accuracy and buys nothing. Results of quantized Conv stay: they leave the kernel rounded.

    Args:
        quantized: names of the quantized layers.
    Returns:
        How many inputs were given their float tensor back.
    """
    by_output = {output: node for node in model.graph.node for output in node.output}
    changed = 0
    for node in model.graph.node:
        if node.name in quantized or node.op_type in _ROUNDING:
            continue
        for i, name in enumerate(node.input):
            source = _before_rounding(name, by_output)
            producer = by_output.get(source) if source else None
            if source and not (producer and producer.name in quantized):
                node.input[i] = source
                changed += 1
    return changed


_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def _before_rounding(name: str, by_output: dict[str, NodeProto]) -> str | None:
    """What a DequantizeLinear(QuantizeLinear(x)) was made of; None when the tensor is none."""
    unpack = by_output.get(name)
    if unpack is None or unpack.op_type != "DequantizeLinear":
        return None
    pack = by_output.get(unpack.input[0])
    return str(pack.input[0]) if pack is not None and pack.op_type == "QuantizeLinear" else None


def split_layers(model: ModelProto, keep_float: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of layers to quantize, and of those whose name matches a pattern (`*conv_out*`)."""
    patterns = list(keep_float)
    kept = [name for name in layers(model) if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return [name for name in layers(model) if name not in set(kept)], kept
