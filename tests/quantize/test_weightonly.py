"""Weights in 8 and 4 bits: the same result within bounds, and the bits stay bits in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.pack import Pack
from quantize.graphs import load_graph, op_counts, save_graph
from quantize.metrics import sqnr_db
from quantize.weightonly import convert_weight_only

ROOT = Path(__file__).parents[2]
WIDTH = 96


def write_graph(path: Path, wide: int = WIDTH) -> None:
    """Conv, then over its channels a MatMul and both kinds of Gemm."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape, np.float32) / shape[-1] ** 0.5, name)

    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["a", "axes"], ["b"], "mean", keepdims=0),
        helper.make_node("MatMul", ["b", "matmul"], ["c"], "matmul1"),
        helper.make_node("Gemm", ["c", "gemm", "bias"], ["d"], "gemm1", transB=1),
        helper.make_node("Gemm", ["d", "plain"], ["y"], "gemm2"),
    ]
    weights = [
        weight("conv", wide, wide, 3, 3),
        weight("matmul", wide, wide),
        weight("gemm", wide, wide),
        weight("bias", wide),
        weight("plain", wide, wide),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", wide, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", wide])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    path.parent.mkdir(parents=True, exist_ok=True)
    save_graph(model, path)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(("bits", "least_db"), [(8, 35), (4, 15)])
def test_every_layer_is_packed_and_computes_nearly_the_same(tmp_path: Path, bits: int, least_db: float):
    write_graph(tmp_path / "float.onnx")
    convert_weight_only(tmp_path / "float.onnx", tmp_path / "bits" / "model.onnx", bits, "1")
    onnx.checker.check_model(str(tmp_path / "bits" / "model.onnx"))
    model = load_graph(tmp_path / "bits" / "model.onnx")
    counts = op_counts(model)
    assert (counts["MatMulNBits"], counts["DequantizeLinear"], counts["Conv"]) == (3, 1, 1)
    assert "MatMul" not in counts
    assert "Gemm" not in counts
    packed = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert {node.domain for node in packed} == {"com.microsoft"}
    assert "com.microsoft" in {opset.domain for opset in model.opset_import}
    x = np.random.default_rng(1).standard_normal((2, WIDTH, 5, 7), np.float32)
    wanted, got = run(tmp_path / "float.onnx", x), run(tmp_path / "bits" / "model.onnx", x)
    assert least_db < sqnr_db(wanted, got) < 120


def test_4_bits_are_half_of_8_where_the_products_are(tmp_path: Path):
    write_graph(tmp_path / "float.onnx")
    sizes = {}
    for bits in (4, 8):
        out = tmp_path / str(bits) / "model.onnx"
        convert_weight_only(tmp_path / "float.onnx", out, bits, "1")
        rows = [t for t in load_graph(out).graph.initializer if t.name.endswith("_bits")]
        sizes[bits] = sum(len(t.raw_data) for t in rows)
    assert sizes[4] * 2 == sizes[8] == 3 * WIDTH * WIDTH


MEMORY = """
import sys
from pathlib import Path
from edgegen.engine.providers import choose_provider
from edgegen.engine.session import open_session

def anonymous_kb():
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("RssAnon"))

choice = choose_provider("cpu")
before = anonymous_kb()
session = open_session(Path(sys.argv[1]), choice, 1)
print(anonymous_kb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_bits_are_not_unfolded_when_the_graph_loads(tmp_path: Path):
    """A DequantizeLinear of a constant could be folded to float32: then file size would say nothing."""
    wide = 1024
    write_graph(tmp_path / "float.onnx", wide)
    convert_weight_only(tmp_path / "float.onnx", tmp_path / "w8" / "model.onnx", 8, "1")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "w8" / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    float_kb = 9 * wide * wide * 4 // 1024  # of the convolution alone
    assert int(done.stdout) < float_kb / 2


@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_the_device_draws_with_such_packs(packs: dict[str, Pack], precision: str):
    from edgegen.engine.pipeline import Picture, TextToImage
    from edgegen.engine.request import GenerationSettings

    settings = GenerationSettings("a red apple", "", 3, 3, 2.0, 32, 32, "dpmpp_2m")
    with TextToImage(packs[precision], provider="cpu", threads=1) as pipeline:
        *_, picture = pipeline.generate(settings)
    assert isinstance(picture, Picture)
    assert picture.pixels.std() > 3
    assert "MatMulNBits" in op_counts(load_graph(packs[precision].graph("unet"), weights=False))
