"""Weights rounded whole are those that ONNX Runtime's quantizer rounds channel by channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from quantize.graphs import LAYER_OPS, annotate_types, initializers, layers
from quantize.int8 import FORMATS, Target, quantize_layers

LAYERS = ["conv", "product", "gemm", "gemm_transposed"]


def model_of_every_layer(seed: int) -> ModelProto:
    """x (b, 6, 4, 4) -> Conv, then MatMul and both kinds of Gemm over its pixels; one channel is dead, one
    bias is far larger than its channel."""
    rng = np.random.default_rng(seed)
    shapes = {
        "wc": (8, 6, 3, 3),
        "bc": (8,),
        "wm": (8, 5),
        "wg": (5, 7),
        "bg": (7,),
        "wt": (9, 7),
        "bt": (9,),
    }
    arrays = {name: rng.laplace(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["wc"][3], arrays["wm"][:, 2] = 0, 0
    arrays["wc"][5], arrays["bc"][5] = 1e-7, 40
    flat = numpy_helper.from_array(np.array([-1, 8], np.int64), "flat")
    nodes = [
        helper.make_node("Conv", ["x", "wc", "bc"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["c"], ["t"], "transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "flat"], ["f"], "reshape"),
        helper.make_node("MatMul", ["f", "wm"], ["m"], "product"),
        helper.make_node("Gemm", ["m", "wg", "bg"], ["g"], "gemm"),
        helper.make_node("Gemm", ["g", "wt", "bt"], ["y"], "gemm_transposed", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 6, 4, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 9]),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], [*weights, flat])
    return annotate_types(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


def ranges() -> TensorsData:
    each = {name: TensorData(lowest=np.float32(-3), highest=np.float32(2)) for name in "xcftmgy"}
    return TensorsData(CalibrationMethod.MinMax, each)


def by_the_library(model: ModelProto, seven_bits: bool, **options: Any) -> ModelProto:
    """What its quantizer makes of it with nothing of ours."""
    add_infer_metadata(model)
    options |= {"WeightSymmetric": True, "MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT}
    options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm"]
    kinds = QuantType.QInt8, QuantType.QUInt8
    quantizer = QDQQuantizer(model, True, seven_bits, *kinds, ranges(), LAYERS, [], list(LAYER_OPS), options)
    quantizer.quantize_model()
    found: ModelProto = quantizer.model.model
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", ["x86-64", "arm64"])
def test_weights_scales_and_biases_are_the_librarys_own(target: Target, seed: int) -> None:
    number_format = FORMATS[target]
    wanted = initializers(by_the_library(model_of_every_layer(seed), number_format.seven_bit_weights))
    model = model_of_every_layer(seed)
    assert layers(model) == LAYERS
    got = initializers(quantize_layers(model, ranges(), LAYERS, number_format))
    assert set(got) == set(wanted)
    assert len([name for name in got if name.endswith("_quantized")]) == 7
    for name in [name for name in got if name[0] in "wb"]:
        ours, theirs = (numpy_helper.to_array(tensors[name]) for tensors in (got, wanted))
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, name)


def test_layers_that_stay_float_keep_their_weights() -> None:
    model = model_of_every_layer(0)
    before = numpy_helper.to_array(initializers(model)["wg"])
    quantized = quantize_layers(model, ranges(), ["conv", "product"], FORMATS["any"])
    np.testing.assert_array_equal(numpy_helper.to_array(initializers(quantized)["wg"]), before)
    assert {"wc", "wm"}.isdisjoint(initializers(quantized))
    assert "wc_quantized" in initializers(quantized)
