"""FP16 packs: half the bytes on disk, nearly the same numbers, and no float32 copy where memory is short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quantize.fp16 import convert_fp16
from quantize.graphs import save_graph, size_bytes
from quantize.metrics import relative_error

ROOT = Path(__file__).parent.parent.parent
SIDE, LAYERS = 1024, 6  # 25 MB of float32
RUN = """
import json, sys
from pathlib import Path
import numpy as np
from edgegen.engine.memory import MODES
from edgegen.engine.providers import choose_provider
from edgegen.engine.runtime import onnxruntime
from edgegen.engine.session import open_session

def anonymous_mb():
    rows = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(rows["RssAnon"].split()[0]) * 1024 / 1e6

onnxruntime()
before = anonymous_mb()
choice = choose_provider("cpu")
session = open_session(Path(sys.argv[1]), choice, 1, "graph", MODES[sys.argv[2]], is_float=True)
loaded = anonymous_mb() - before
x = np.random.default_rng(1).standard_normal((2, 1024), np.float32)
print(json.dumps([loaded, session.run({"x": x})["y"].tolist()]))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The same layers in float32 and as an FP16 pack stores them."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("fp16")
    weights = [rng.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5 for _ in range(LAYERS)]
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"layer{i}") for i in range(LAYERS)
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", SIDE]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "fp32").mkdir()
    fp32 = save_graph(model, folder / "fp32" / "model.onnx")
    return {"fp32": fp32, "fp16": convert_fp16(fp32[0], folder / "fp16" / "model.onnx", "1")}


def run(graph: Path, mode: str) -> tuple[float, np.ndarray]:
    """MB of anonymous memory that loading took, and the result, in a process of its own."""
    command = [sys.executable, "-c", RUN, str(graph), mode]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=env)
    loaded, result = json.loads(done.stdout)
    return loaded, np.array(result, np.float32)


def test_half_the_bytes(graphs: dict[str, list[Path]]):
    assert size_bytes(graphs["fp16"]) < 0.51 * size_bytes(graphs["fp32"])


@pytest.mark.parametrize("mode", ["mapped", "low"])
def test_the_sparing_modes_unfold_no_weights(graphs: dict[str, list[Path]], mode: str):
    weights_mb = LAYERS * SIDE * SIDE * 4 / 1e6
    _, wanted = run(graphs["fp32"][0], "full")
    unfolded_mb, full = run(graphs["fp16"][0], "full")
    loaded_mb, got = run(graphs["fp16"][0], mode)
    assert unfolded_mb > weights_mb
    assert loaded_mb < weights_mb / 3
    assert relative_error(wanted, got) < 1e-2
    assert relative_error(full, got) < 1e-5
