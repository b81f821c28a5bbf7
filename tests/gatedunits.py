"""Gated linear units in 8 bits, as `quantize` writes them: graphs to try and to time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.GraphProto], None]


@dataclass
class Unit:
    """(rows, depth) bytes in, (rows, width) bytes out; the shape is asked for on the way, as exporters do."""

    depth: int
    width: int
    seed: int = 0
    x_zero: int = 119
    y_zero: int = 131
    y_scale: float = 0.02
    loudness: float = 1.0
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        x_scale = np.float32(0.02)
        self.tensors = {"x_scale": x_scale, "x_zero": np.uint8(self.x_zero), "y_zero": np.uint8(self.y_zero)}
        self.tensors |= {"y_scale": np.float32(self.y_scale), "sqrt2": np.float32(math.sqrt(2))}
        self.tensors |= {
            "one": np.float32(1),
            "half": np.float32(0.5),
            "shape": np.array([1, -1, self.width]),
        }
        self.tensors |= {"rows": np.array([-1, self.width]), "wide": np.array([self.width])}
        self.tensors |= {"start": np.array([0]), "end": np.array([-1])}
        for name in ("value", "gate"):
            scales = random.uniform(0.2, 1.0, self.width) * self.loudness / (60 * math.sqrt(self.depth))
            self.tensors |= {
                f"{name}_w": random.integers(-127, 128, (self.depth, self.width), np.int8),
                f"{name}_scale": scales.astype(np.float32),
                f"{name}_zero": np.zeros(self.width, np.int8),
                f"{name}_b": random.integers(-20_000, 20_000, self.width, np.int32),
                f"{name}_b_scale": (scales * x_scale).astype(np.float32),
                f"{name}_b_zero": np.zeros(self.width, np.int32),
            }

    def model(self, change: Change = lambda graph: None) -> onnx.ModelProto:
        node = helper.make_node
        nodes = [
            node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]),
            node("Shape", ["x"], ["x_shape"]),
            node("Slice", ["x_shape", "start", "end", "start"], ["batch"]),
            node("Concat", ["batch", "wide"], ["y_shape"], axis=0),
        ]
        for name in ("value", "gate"):
            nodes += [
                node(
                    "DequantizeLinear", [f"{name}_w", f"{name}_scale", f"{name}_zero"], [f"{name}_wf"], axis=1
                ),
                node(
                    "DequantizeLinear",
                    [f"{name}_b", f"{name}_b_scale", f"{name}_b_zero"],
                    [f"{name}_bf"],
                    axis=0,
                ),
                node("Gemm", ["xf", f"{name}_wf", f"{name}_bf"], [f"{name}_rows"], name=f"{name}_gemm"),
                node("Reshape", [f"{name}_rows", "y_shape"], [name], name=f"{name}_unrows"),
            ]
        nodes += [
            node("Div", ["gate", "sqrt2"], ["d"], name="div"),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "one"], ["p"], name="add"),
            node("Mul", ["gate", "p"], ["q"]),
            node("Mul", ["q", "half"], ["g"], name="half"),
            node("Mul", ["value", "g"], ["product"], name="last"),
            node("Shape", ["product"], ["told"]),
            node("Reshape", ["product", "rows"], ["product_rows"]),
            node("QuantizeLinear", ["product_rows", "y_scale", "y_zero"], ["out"], name="quantize"),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, self.depth])],
            [
                helper.make_tensor_value_info("out", TensorProto.UINT8, [None, self.width]),
                helper.make_tensor_value_info("told", TensorProto.INT64, [2]),
            ],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.tensors.items()],
        )
        change(graph)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def bytes_of(rows: int, depth: int, seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).integers(0, 256, (rows, depth), np.uint8)}
