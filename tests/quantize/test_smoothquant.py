"""The benchmark's SmoothQuant changes no result, and does what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench.smoothquant import channel_maxima, smooth, smoothable
from quantize.calibrate import Recorder, Records
from quantize.graphs import load_graph, save_graph
from quantize.metrics import relative_error

WIDE = 16


def write_graph(path: Path) -> None:
    """A norm with one loud channel, read by two MatMuls of one weight; a second norm, read also by an Add."""
    rng = np.random.default_rng(0)
    gamma = np.ones(WIDE, np.float32)
    gamma[3] = 50
    weights = {
        "gamma": gamma,
        "beta": np.zeros(WIDE, np.float32),
        "w": rng.standard_normal((WIDE, WIDE)).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], "norm1"),
        helper.make_node("MatMul", ["n", "w"], ["q"], "to_q"),
        helper.make_node("MatMul", ["n", "w"], ["k"], "to_k"),
        helper.make_node("Add", ["q", "k"], ["s"], "sum"),
        helper.make_node("LayerNormalization", ["s", "gamma", "beta"], ["m"], "norm2"),
        helper.make_node("MatMul", ["m", "w"], ["v"], "to_v"),
        helper.make_node("Add", ["v", "m"], ["y"], "residual"),
    ]
    shape = ["batch", "sequence", WIDE]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    arrays = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    save_graph(model, path)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_scales_move_from_the_norm_into_the_weights_and_nothing_else_changes(tmp_path: Path):
    graph = tmp_path / "model.onnx"
    write_graph(graph)
    x = np.random.default_rng(1).standard_normal((2, 5, WIDE)).astype(np.float32)
    recorder = Recorder(tmp_path / "records", 4, hold_out=False)
    recorder("unet", {"x": x}, {"y": x})
    maxima = channel_maxima(graph, Records.of(tmp_path / "records", "unet"))
    assert set(maxima) == {"n"} == set(smoothable(load_graph(graph)))
    assert maxima["n"].argmax() == 3
    model = load_graph(graph)
    wanted = run(model, x)
    assert smooth(model, maxima, alpha=1.0) == 1
    assert relative_error(wanted, run(model, x)) < 1e-5
    gamma = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}["norm1/smooth_1"]
    loudness = np.abs(gamma) * maxima["n"] / np.where(np.arange(WIDE) == 3, 50, 1)
    assert loudness.max() < 1.01 * loudness.min(), "all channels are alike"
