"""What 8 bits do inside every layer of a graph: from its weights and from what it was seen to be given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import NodeProto, numpy_helper
from onnxruntime.quantization.calibrate import TensorsData

from .graphs import initializers, load_graph, weight_name
from .int8 import Int8Format
from .observe import Observations


@dataclass(frozen=True)
class LayerRounding:
    """A layer's own errors.

    Attributes:
        input: tensor that will be rounded.
        low, high: the range its 8 bits cover.
        amount: times the input's rounding error, the noise of input, weights and result together.
        weight_bytes: of the float32 weight.
        result: tensor that the layer gives.
        outputs: of the weight: channels or columns.
        own_noise: energy of that noise over the energy of the result, as if all values were independent.
    """

    name: str
    input: str
    low: float
    high: float
    amount: float
    weight_bytes: int
    result: str
    outputs: int
    own_noise: float

    def macs(self, values: int) -> int:
        """Multiply-adds for a result of so many values."""
        return values // self.outputs * (self.weight_bytes // 4)


def layer_roundings(
    graph: Path, seen: Observations, ranges: TensorsData, number_format: Int8Format
) -> list[LayerRounding]:
    """Every layer with weights, in graph order; one weight at a time is in memory."""
    model = load_graph(graph, weights=False)
    weights = initializers(model)
    found = []
    for node in model.graph.node:
        name = weight_name(node, weights)
        if name and node.input[0] in seen.histograms:
            matrix = _output_rows(node, numpy_helper.to_array(weights[name], str(graph.parent)))
            found.append(_rounding_of(node, matrix, seen, ranges, number_format))
    return found


def _output_rows(node: NodeProto, weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs) of a Conv's, MatMul's or Gemm's weight."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    if node.op_type == "Conv" or (node.op_type == "Gemm" and transposed):
        return weight.reshape(len(weight), -1)
    return weight.reshape(-1, weight.shape[-1]).T


def _rounding_of(
    node: NodeProto, rows: np.ndarray, seen: Observations, ranges: TensorsData, number_format: Int8Format
) -> LayerRounding:
    source, result = node.input[0], node.output[0]
    low, high = (float(v) for v in ranges[source].range_value)
    low, high = min(low, 0.0), max(high, 0.0)
    given = seen.histograms[source]
    gain = float(np.square(rows).sum(axis=1).mean())
    of_input = given.rounding_error(low, high) * gain
    others = _lost_energy(rows, number_format) * given.mean_square()
    if node.op_type == "Conv" and result in seen.histograms:
        others += seen.histograms[result].rounding_error(*(float(v) for v in ranges[result].range_value))
    amount = float(np.sqrt(1 + others / of_input)) if of_input > 0 else 0.0
    energy = given.mean_square() * gain
    own_noise = (of_input + others) / energy if energy > 0 else 0.0
    return LayerRounding(node.name, source, low, high, amount, rows.nbytes, result, len(rows), own_noise)


def _lost_energy(rows: np.ndarray, number_format: Int8Format) -> float:
    """What rounding takes from the weights: squared error summed over inputs, mean over outputs."""
    largest = 63 if number_format.seven_bit_weights else 127
    steps = np.abs(rows).max(axis=1, keepdims=True) / largest
    steps[steps == 0] = 1
    return float(np.square(rows - np.rint(rows / steps) * steps).sum(axis=1).mean())
