"""The library, the kinds of processors it has code for here, and a stand-in for a chip we do not have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgegen.engine.operators import library
from edgegen.engine.operators.library import choose_kind

ROOT = Path(__file__).parents[3]
POCKET = ROOT / "edgegen/packs/pocket"
StandIn = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], np.ndarray]
built = next((path for path in library.LIBRARIES if path.is_file()), None)
KINDS = [kind for kind in ("avx512-vnni", "avx-vnni", "avx2") if built and choose_kind(built, kind)]
needs_library = pytest.mark.skipif(not KINDS, reason="no compiler was there, or no AVX2 is")

RUN = """
import sys
from pathlib import Path
import numpy as np
from edgegen.engine.operators.library import choose_kind
from edgegen.engine.providers import ProviderChoice
from edgegen.engine.session import open_session
library = Path(sys.argv[1])
if choose_kind(library, "avx-vnni") != "avx-vnni":
    sys.exit("no VNNI here")
session = open_session(Path(sys.argv[2]), ProviderChoice("cpu", "", operators=library), 1)
with np.load(sys.argv[3]) as feeds:
    np.save(sys.argv[4], session.run(dict(feeds))["out"])
"""


@pytest.fixture(autouse=True)
def best_kind() -> None:
    if built and KINDS:
        choose_kind(built, KINDS[0])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    assert built is not None
    assert choose_kind(built, request.param) == request.param
    return str(request.param)


@pytest.fixture(scope="session")
def stand_in_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AVX-VNNI's code with AVX-512's encoding of the same instructions: what has AVX-512's VNNI runs it."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler")
    path = tmp_path_factory.mktemp("native") / "library.so"
    sources = map(str, (ROOT / "edgegen/engine/operators/native").glob("*.c"))
    flags = ["-std=gnu11", "-O3", "-fno-math-errno", "-DSTAND_IN", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(path), "-lm"], check=True)
    return path


@pytest.fixture
def stand_in(stand_in_library: Path, tmp_path: Path) -> StandIn:
    """Runs a graph as a chip with AVX-VNNI would, in a process of its own; returns its output `out`."""

    def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        files = [tmp_path / name for name in ("model.onnx", "feeds.npz", "out.npy")]
        onnx.save(model, files[0])
        np.savez(files[1], **feeds)
        command = [sys.executable, "-c", RUN, str(stand_in_library), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if "no VNNI here" in done.stderr:
            pytest.skip("no VNNI here")
        assert done.returncode == 0, done.stderr
        return np.load(files[2])

    return run
