"""Our gated linear unit beside ONNX Runtime's nodes, as `quantize` writes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgegen.engine.operators.library import choose_kind
from edgegen.engine.operators.rewriting import with_own_operators
from edgegen.engine.providers import ProviderChoice
from edgegen.engine.session import GraphSession, open_session
from edgegen.errors import EngineError
from tests.gatedunits import Change, Unit, bytes_of

from .conftest import KINDS, StandIn, built, needs_library

STOCK = ProviderChoice("cpu", "a test")
OWN = ProviderChoice("cpu", "a test", operators=built)


def session_of(unit: Unit, folder: Path, choice: ProviderChoice, threads: int = 1) -> GraphSession:
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    onnx.save(unit.model(), path)
    return open_session(path, choice, threads, "unit")


def operators(model: bytes, folder: Path = Path()) -> list[str]:
    graph = onnx.load_from_string(with_own_operators(model, folder)).graph
    return [node.op_type for node in graph.node if node.domain == "edgegen"]


def differences(unit: Unit, rows: int, folder: Path) -> np.ndarray:
    feeds = bytes_of(rows, unit.depth)
    own, stock = (session_of(unit, folder, choice).run(feeds) for choice in (OWN, STOCK))
    assert own["told"].tolist() == stock["told"].tolist() == [rows, unit.width]
    return own["out"].astype(int) - stock["out"]


@needs_library
@pytest.mark.parametrize(
    ("rows", "depth", "width"),
    [(200, 320, 1280), (1, 4, 32), (6, 640, 64), (5, 8, 96), (1100, 36, 32), (77, 1280, 160)],
)
def test_gives_onnx_runtime_s_bytes(kind: str, tmp_path: Path, rows: int, depth: int, width: int) -> None:
    """But where a value lies within its rounding of a border between two levels."""
    off = differences(Unit(depth, width), rows, tmp_path)
    assert np.abs(off).max() <= 1
    assert (off != 0).mean() < 1e-3


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    depth=st.integers(1, 30).map(lambda n: 4 * n),
    width=st.integers(1, 4).map(lambda n: 32 * n),
    x_zero=st.integers(0, 255),
    y_zero=st.integers(0, 255),
    loudness=st.sampled_from([0.0, 1e-3, 1.0, 20.0, 1e4]),
    kind=st.sampled_from(KINDS or [""]),
)
def test_any_shape_and_any_level(
    tmp_path_factory, rows, depth, width, x_zero, y_zero, loudness, kind
) -> None:
    assert choose_kind(built, kind) == kind
    unit = Unit(depth, width, rows, x_zero, y_zero, loudness=loudness)
    off = differences(unit, rows, tmp_path_factory.mktemp("m"))
    assert np.abs(off).max() <= 1
    assert (off != 0).mean() < 5e-3


def test_gelu_over_its_whole_range(kind: str, tmp_path: Path) -> None:
    """One byte in, the gate from -8 to 8 and the value 1: the result is GELU, in steps of a 64th."""
    unit = Unit(4, 32, x_zero=128, y_zero=20, y_scale=1 / 64)
    unit.tensors["x_scale"] = np.float32(1 / 16)
    for name in ("value", "gate"):
        unit.tensors[f"{name}_w"] = np.zeros((4, 32), np.int8)
        unit.tensors[f"{name}_scale"] = np.full(32, 1 / 127, np.float32)
        unit.tensors[f"{name}_b"] = np.full(32, (0 if name == "gate" else 16 * 127), np.int32)
    unit.tensors["gate_w"][0] = 127
    x = np.full((256, 4), 128, np.uint8)
    x[:, 0] = np.arange(256)
    out = session_of(unit, tmp_path, OWN).run({"x": x})["out"][:, 0]
    gates = (np.arange(256) - 128) / 16
    want = np.array([gate / 2 * (1 + math.erf(gate / math.sqrt(2))) for gate in gates])
    assert np.abs((out - 20.0) / 64 - np.clip(want, -20 / 64, 235 / 64)).max() <= 0.5 / 64 + 1e-5


def test_what_a_chip_with_avx_vnni_would_compute(stand_in: StandIn, tmp_path: Path) -> None:
    unit, feeds = Unit(160, 96), bytes_of(50, 160)
    off = stand_in(unit.model(), feeds).astype(int) - session_of(unit, tmp_path, STOCK).run(feeds)["out"]
    assert np.abs(off).max() <= 1
    assert (off != 0).mean() < 1e-3


@needs_library
def test_threads_change_no_bit(kind: str, tmp_path: Path) -> None:
    unit, feeds = Unit(64, 96), bytes_of(2100, 64)
    one, two = (session_of(unit, tmp_path, OWN, threads).run(feeds)["out"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@needs_library
def test_it_takes_weights_that_are_put_in_their_place(tmp_path: Path) -> None:
    """As a LoRA's are. The scale of a bias it does not need: its integers have the products' own."""
    unit, other, feeds = Unit(64, 96), Unit(64, 96, seed=5), bytes_of(20, 64)
    changed = {
        name: other.tensors[name] for name in ("gate_w", "gate_scale", "gate_b", "gate_b_scale", "value_w")
    }
    path = tmp_path / "m.onnx"
    onnx.save_model(unit.model(), path, save_as_external_data=True, location="m.data", size_threshold=100)
    out = open_session(path, OWN, 1, weights=changed).run(feeds)["out"]
    unit.tensors |= changed
    np.testing.assert_array_equal(out, session_of(unit, tmp_path, OWN).run(feeds)["out"])


@needs_library
def test_no_rows_are_no_error(tmp_path: Path) -> None:
    assert session_of(Unit(8, 32), tmp_path, OWN).run(bytes_of(0, 8))["out"].shape == (0, 32)


def test_a_unit_becomes_one_node() -> None:
    assert operators(Unit(8, 32).model().SerializeToString()) == ["GEGLU"]
    left = onnx.load_from_string(with_own_operators(Unit(8, 32).model().SerializeToString(), Path())).graph
    assert [node.op_type for node in left.node] == ["Shape", "Slice", "Concat", "Identity", "GEGLU"]


def node_named(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def tensor_of(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    (old,) = (tensor for tensor in graph.initializer if tensor.name == name)
    old.CopyFrom(numpy_helper.from_array(value, name))


def attribute(name: str, key: str, value: float) -> Change:
    return lambda graph: node_named(graph, name).attribute.append(helper.make_attribute(key, value))


def given_away(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, None))


def taken_twice(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Neg", ["product"], ["negative"]))


NOT_OURS: dict[str, Change] = {
    "alpha": attribute("gate_gemm", "alpha", 2.0),
    "transposed": attribute("value_gemm", "transB", 1),
    "half is another number": lambda graph: tensor_of(graph, "half", np.float32(0.25)),
    "the divisor is another number": lambda graph: tensor_of(graph, "sqrt2", np.float32(1.5)),
    "weights around 3": lambda graph: tensor_of(graph, "gate_zero", np.full(32, 3, np.int8)),
    "unsigned weights": lambda graph: tensor_of(graph, "gate_w", np.ones((8, 32), np.uint8)),
    "one scale for all columns": lambda graph: tensor_of(graph, "gate_scale", np.float32(1)),
    "signed levels": lambda graph: tensor_of(graph, "y_zero", np.int8(3)),
    "a scale for each column of y": lambda graph: tensor_of(graph, "y_scale", np.ones(32, np.float32)),
    "a result of three sides": lambda graph: tensor_of(graph, "rows", np.array([1, -1, 32])),
    "a scale of half a float": lambda graph: tensor_of(graph, "y_scale", np.float16(0.02)),
    "scales of half floats": lambda graph: tensor_of(graph, "gate_scale", np.ones(32, np.float16)),
    "another kind of step": lambda graph: setattr(node_named(graph, "add"), "op_type", "Sub"),
    "a value in between is a result": given_away,
    "the product is taken twice": taken_twice,
    "it stays float": lambda graph: setattr(node_named(graph, "quantize"), "op_type", "Cast"),
    "a shape that leaves a side open": lambda graph: tensor_of(graph, "wide", np.array([-1])),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_ours_does_not_compute_stays(what: str) -> None:
    model = Unit(8, 32).model(NOT_OURS[what]).SerializeToString()
    assert with_own_operators(model, Path()) == model


@pytest.mark.parametrize(("depth", "width"), [(6, 32), (8, 40), (8, 16)])
def test_sides_that_are_not_whole_vectors_stay(depth: int, width: int) -> None:
    assert operators(Unit(depth, width).model().SerializeToString()) == []


def test_zero_points_may_lie_in_the_data_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 60}
    onnx.save_model(Unit(8, 32).model(), path, **options)
    assert operators(path.read_bytes(), tmp_path) == ["GEGLU"]
    assert operators(path.read_bytes(), tmp_path / "elsewhere") == []
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{tmp_path}/m.data"
    assert operators(moved.SerializeToString(), tmp_path) == [], "only files of the folder are read"


@needs_library
@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("x", (3, 12), "x and the weights do not fit together"),
        ("w", (8, 64), "scales and bias must be as many"),
        ("v_scale", (64,), "scales and bias must be as many"),
        ("x", (8,), "x must have rank 2"),
        ("y_scale", (1,), "must be scalars"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    shapes = {"x": (3, 8), "x_scale": (), "x_zero": (), "w": (8, 32), "w_scale": (32,), "b": (32,)}
    shapes |= {"v": (8, 32), "v_scale": (32,), "c": (32,), "y_scale": (), "y_zero": ()}
    with pytest.raises(EngineError, match=said):
        run_alone(tmp_path, shapes | {name: shape})
    assert run_alone(tmp_path, shapes).shape == (3, 32)


@needs_library
@pytest.mark.parametrize(("depth", "width"), [(6, 32), (8, 40)])
def test_sides_of_a_node_that_no_rule_made_are_checked(tmp_path: Path, depth: int, width: int) -> None:
    shapes = {"x": (3, depth), "x_scale": (), "x_zero": (), "w": (depth, width), "w_scale": (width,)}
    shapes |= {
        "b": (width,),
        "v": (depth, width),
        "v_scale": (width,),
        "c": (width,),
        "y_scale": (),
        "y_zero": (),
    }
    with pytest.raises(EngineError, match="must be a multiple of"):
        run_alone(tmp_path, shapes)


def run_alone(folder: Path, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """A graph of nothing but our node, all ones."""
    types = {"x": np.uint8, "x_zero": np.uint8, "y_zero": np.uint8, "w": np.int8, "v": np.int8}
    types |= {"b": np.int32, "c": np.int32}
    feeds = {name: np.ones(shape, types.get(name, np.float32)) for name, shape in shapes.items()}
    node = helper.make_node("GEGLU", list(shapes), ["out"], domain="edgegen")
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in feeds.items()
    ]
    out = [helper.make_tensor_value_info("out", TensorProto.UINT8, None)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("edgegen", 1)]
    path = folder / "alone.onnx"
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", inputs, out), opset_imports=opsets, ir_version=9),
        path,
    )
    return open_session(path, OWN, 1, "alone").run(feeds)["out"]
