"""The arena that graphs share, in processes of their own: what is measured is their memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
TENSOR_MB = 128

RUN = """
import json, sys
from pathlib import Path
import numpy as np
from edgegen.engine.freememory import own_anonymous_mb
from edgegen.engine.memory import MODES, give_back
from edgegen.engine.providers import ProviderChoice
from edgegen.engine.session import open_session
told = [own_anonymous_mb()]
def tell():
    told.append(own_anonymous_mb())
path, mode = Path(sys.argv[1]), MODES[sys.argv[2]]
sessions = [open_session(path, ProviderChoice("cpu", ""), 1, memory=mode) for _ in "ab"]
for session, count in zip(sessions, (1000, 900)):  # a little less: small tensors lie where the large one was
    assert session.run({"x": np.arange(count, dtype=np.float32)})["most"] == count - 1
    tell()
give_back()
tell()
sessions[0].run({"x": np.ones(1000, np.float32)})
for session in sessions:
    session.close()
give_back()
tell()
print(json.dumps(told))
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The largest of 32 million numbers, 1000 of them given, each often."""
    repeats = numpy_helper.from_array(np.array([TENSOR_MB * 250]), "repeats")
    nodes = [
        helper.make_node("Tile", ["x", "repeats"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["most"], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    most = helper.make_tensor_value_info("most", TensorProto.FLOAT, [])
    made = helper.make_graph(nodes, "g", [x], [most], [repeats])
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def anonymous_mb(graph: Path, mode: str) -> list[int]:
    """Before; after the first session's run, the second's; given back; closed and given back."""
    command = [sys.executable, "-c", RUN, str(graph), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return list(json.loads(done.stdout))


def test_one_graph_takes_what_another_has_freed_and_all_goes_back(graph: Path) -> None:
    before, first, second, given, closed = anonymous_mb(graph, "full")
    assert first - before > 0.9 * TENSOR_MB, "it stays with the arena"
    assert second - first < 0.1 * TENSOR_MB
    assert given - before < 0.3 * TENSOR_MB
    assert closed - before < 0.3 * TENSOR_MB


def test_where_memory_is_short_nothing_stays(graph: Path) -> None:
    before, *later = anonymous_mb(graph, "low")
    assert max(later) - before < 0.3 * TENSOR_MB
