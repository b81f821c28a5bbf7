from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.providers import ProviderChoice, choose_provider
from edgegen.engine.runtime import onnxruntime, usable_cores
from edgegen.engine.session import GraphSession, open_session, session_options
from edgegen.engine.sessioncache import SessionCache
from edgegen.errors import EngineError, OutOfMemory, PackError
from edgegen.pack import Pack

CPU = choose_provider("cpu")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def unet(tiny: Pack) -> GraphSession:
    return open_session(tiny.graph("unet"), CPU, 1, "unet")


def unet_feeds(size: int = 8, **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "sample": rng.standard_normal((1, 4, size, size)).astype(np.float32),
        "timestep": np.array([500]),
        "encoder_hidden_states": rng.standard_normal((1, 77, 8)).astype(np.float32),
    } | changes


def test_runs_and_counts(unet: GraphSession) -> None:
    out = unet.run(unet_feeds())
    assert out["out_sample"].shape == (1, 4, 8, 8)
    assert unet.runs == 1
    assert unet.inputs["timestep"] == (np.int64, 1)


@pytest.mark.parametrize("timestep", [500, np.array(500.0), np.array([500], np.int32), np.array([499.9])])
def test_feeds_are_cast_to_what_the_graph_declares(unet: GraphSession, timestep) -> None:
    want = unet.run(unet_feeds())["out_sample"]
    feeds = unet_feeds(timestep=timestep)
    feeds["sample"] = feeds["sample"].astype(np.float64)
    np.testing.assert_array_equal(unet.run(feeds)["out_sample"], want)


@pytest.mark.parametrize("kind", ["float", "float16", "int32", "scalar int64"])
def test_graphs_exported_elsewhere_declare_other_types(tmp_path: Path, kind: str) -> None:
    """optimum and older exporters take the timestep as a float, a half or a scalar."""
    onnx = pytest.importorskip("onnx")
    element = {"float": 1, "float16": 10, "int32": 6, "scalar int64": 7}[kind]
    shape = [] if kind.startswith("scalar") else [1]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["timestep"], ["out"], to=1)],
        "g",
        [onnx.helper.make_tensor_value_info("timestep", element, shape)],
        [onnx.helper.make_tensor_value_info("out", 1, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    out = open_session(tmp_path / "m.onnx", CPU, 1).run({"timestep": np.array([981.0])})["out"]
    assert out.shape == tuple(shape)
    assert out == 981


def test_feeds_that_do_not_fit_are_named(unet: GraphSession) -> None:
    with pytest.raises(
        EngineError, match="takes encoder_hidden_states, sample, timestep, but was given sample"
    ):
        unet.run({"sample": unet_feeds()["sample"]})
    with pytest.raises(EngineError, match="graph unet failed"):
        unet.run(unet_feeds(sample=np.zeros((1, 3, 8, 8))))


def test_closed_twice_and_then_used(unet: GraphSession) -> None:
    unet.close()
    unet.close()
    with pytest.raises(EngineError, match="closed"):
        unet.run(unet_feeds())


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_what_is_no_graph_is_an_engine_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"x\.onnx does not load with provider cpu"):
        open_session(path, CPU, 1)


def test_threads_are_explicit_and_idle_threads_sleep() -> None:
    options = session_options(onnxruntime(), 3)
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_devices_go_through_the_plugin_interface(tiny: Pack) -> None:
    """The built-in CPU device takes the same road as OpenVINO's."""
    devices = [d for d in onnxruntime().get_ep_devices() if d.ep_name == "CPUExecutionProvider"]
    choice = ProviderChoice("plugin", "test", (devices[0],))
    got = open_session(tiny.graph("unet"), choice, 1).run(unet_feeds())
    want = open_session(tiny.graph("unet"), CPU, 1).run(unet_feeds())
    np.testing.assert_array_equal(got["out_sample"], want["out_sample"])


def test_the_cache_opens_each_graph_once(tiny: Pack) -> None:
    cache = SessionCache(tiny, CPU, 1)
    assert cache.loaded == []
    first = cache.get("unet")
    assert cache.get("unet") is first
    assert cache.loaded == ["unet"]
    cache.close()
    cache.close()
    assert cache.loaded == []
    assert cache.get("unet") is not first


def test_the_cache_loads_no_altered_graph(changed_tiny) -> None:
    pack = changed_tiny()
    weights = pack.folder / "unet" / "weights.bin"
    weights.write_bytes(bytes(weights.stat().st_size))
    cache = SessionCache(pack, CPU, 1)
    with pytest.raises(PackError, match=r"unet/weights\.bin: SHA-256 is"):
        cache.get("unet")
    assert cache.loaded == []


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
from edgegen.engine.providers import choose_provider
from pathlib import Path
from edgegen.engine.session import open_session
from edgegen.errors import OutOfMemory
session = open_session(Path(sys.argv[1]), choose_provider("cpu"), 1, "unet")
limit = 4 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
feeds = {"sample": np.zeros((1, 4, 512, 512), np.float32), "timestep": np.array([1]),
         "encoder_hidden_states": np.zeros((1, 77, 8), np.float32)}
try:
    session.run(feeds)   # self-attention over 512x512 places needs 500 GB
except OutOfMemory as err:
    print("caught:", err)
feeds["sample"] = feeds["sample"][..., :8, :8]
print("still works:", session.run(feeds)["out_sample"].shape)
"""


def test_a_failed_allocation_is_out_of_memory(tiny: Pack) -> None:
    """In a process of its own, under an address-space limit: it costs the job, not the process."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(tiny.graph("unet"))],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "caught: graph unet failed: not enough memory" in done.stdout, done.stderr
    assert "still works: (1, 4, 8, 8)" in done.stdout
    assert issubclass(OutOfMemory, EngineError)


TELEMETRY_SCRIPT = """
import os, sys
import edgegen.engine.pipeline, edgegen.engine.metadata, edgegen.engine.providers
assert "onnxruntime" not in sys.modules, "imported too early"
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "too late"
            print("set before import")
sys.meta_path.insert(0, Watch())
import time
from types import SimpleNamespace
from edgegen.engine.pipeline import TextToImage, resolve_settings
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
names = "seed steps guidance width height sampler schedule prompt_syntax"
fields = dict.fromkeys(names.split())
pack = Pack.open(sys.argv[1])
request = SimpleNamespace(prompt="a cat", negative_prompt="", **fields)
list(TextToImage(pack, "cpu", 1).generate(resolve_settings(pack, request, LimitSettings())))
time.sleep(1)  # a reporter would start in the background
bad = {"torch", "diffusers", "transformers", "onnx", "tokenizers", "quantize"} & set(sys.modules)
assert not bad, bad
for fd in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink("/proc/self/fd/" + fd)
    except OSError:
        continue
    assert not target.startswith("socket:"), target
"""


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path: Path, tiny: Pack) -> None:
    """Nothing is written, no socket opened; and no training framework is ever imported on the device."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    env |= {
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", TELEMETRY_SCRIPT, str(tiny.folder)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "set before import" in done.stdout
    assert list(tmp_path.rglob("*")) == []
