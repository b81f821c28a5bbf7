"""Every rewrite computes what the graph computed before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

from quantize.graphs import load_graph, op_counts, save_graph
from quantize.metrics import sqnr_db
from quantize.rewrites import drop_unused_weights, int8_embeddings, stamp, weights_as_fp16

RNG = np.random.default_rng(0)


def model_of(nodes: list, weights: dict[str, np.ndarray], inputs: dict[str, tuple], out: list) -> ModelProto:
    ins = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    outs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, out)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ins, outs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: ModelProto, **feeds: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def matmul_model() -> ModelProto:
    weights = {
        "w": RNG.standard_normal((32, 48), np.float32),
        "large": np.full((1, 48 * 8), 1e5, np.float32)[:, :48],
        "b": RNG.standard_normal(48, np.float32),
        "unused": np.zeros(4, np.float32),
    }
    weights["large"] = np.full((8, 48), 1e5, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
        helper.make_node("Add", ["y", "b"], ["z"], "add"),
        helper.make_node("Add", ["z", "large"], ["out"], "add_large"),
    ]
    return model_of(nodes, weights, {"x": (TensorProto.FLOAT, [8, 32])}, [8, 48])


def test_fp16_weights_give_the_same_within_half_precision():
    model, x = matmul_model(), RNG.standard_normal((8, 32), np.float32)
    wanted = run(model, x=x)
    assert weights_as_fp16(model) == 1  # b is small, and 1e5 is beyond FP16
    got = run(model, x=x)
    assert got.dtype == np.float32
    assert sqnr_db(wanted - 1e5, got - 1e5) > 40
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["w_fp16"] == TensorProto.FLOAT16
    assert kinds["large"] == kinds["b"] == TensorProto.FLOAT


def test_fp16_leaves_what_it_is_told_to():
    model = matmul_model()
    assert weights_as_fp16(model, keep={"w"}) == 0


def test_int8_embeddings_look_up_the_same_rows():
    table = RNG.standard_normal((300, 24), np.float32) * RNG.uniform(0.01, 10, (300, 1)).astype(np.float32)
    table[7] = 0
    nodes = [helper.make_node("Gather", ["table", "ids"], ["out"], "embed", axis=0)]
    model = model_of(nodes, {"table": table}, {"ids": (TensorProto.INT64, [1, 5])}, [1, 5, 24])
    ids = np.array([[0, 7, 299, 7, 12]])
    wanted = run(model, ids=ids)
    assert int8_embeddings(model) == 1
    got = run(model, ids=ids)
    assert sqnr_db(wanted, got) > 38
    assert not got[0, 1].any()
    assert "table" not in {t.name for t in model.graph.initializer}


def test_small_or_computed_tables_are_left():
    nodes = [helper.make_node("Gather", ["table", "ids"], ["out"], "embed", axis=0)]
    small = model_of(nodes, {"table": np.ones((4, 4), np.float32)}, {"ids": (TensorProto.INT64, [2])}, [2, 4])
    assert int8_embeddings(small) == 0


def test_unused_weights_go_and_used_ones_stay():
    model = matmul_model()
    drop_unused_weights(model)
    assert {t.name for t in model.graph.initializer} == {"w", "b", "large"}


def test_saved_graphs_compute_the_same_from_their_weights_file(tmp_path: Path):
    model, x = matmul_model(), RNG.standard_normal((8, 32), np.float32)
    wanted = run(model, x=x)
    stamp(model, "1.2.3")
    files = save_graph(model, tmp_path / "model.onnx")
    assert [path.name for path in files] == ["model.onnx", "model.onnx.data"]
    session = ort.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x})[0], wanted)
    loaded = load_graph(files[0])
    assert (loaded.producer_name, loaded.producer_version) == ("edgegen-quantize", "1.2.3")
    assert op_counts(loaded) == {"MatMul": 1, "Add": 2}
