from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.workbench import Workbench
from edgegen.pack import Pack, file_entry
from edgegen.settings import LimitSettings

TINY = Path(__file__).parent.parent / "packs" / "tiny"


@pytest.fixture
def tiny() -> Pack:
    return Pack.open(TINY)


@pytest.fixture
def changed_tiny(tmp_path: Path) -> Callable[..., Pack]:
    """A copy of the tiny pack with other manifest fields."""

    def make(**fields: object) -> Pack:
        folder = Path(shutil.copytree(TINY, tmp_path / f"tiny{len(list(tmp_path.iterdir()))}"))
        data = json.loads((folder / "pack.json").read_text("utf-8"))
        (folder / "pack.json").write_text(json.dumps(data | fields), "utf-8")
        return Pack.open(folder)

    return make


def write_encoder(path: Path) -> None:
    """Means of 8 x 8 pixels, each channel once and red twice: (1, 3, h, w) -> (1, 4, h / 8, w / 8)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    mix = np.eye(4, 3, dtype=np.float32)
    mix[3, 0] = 1
    nodes = [
        helper.make_node("AveragePool", ["sample"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["mean", "mix"], ["latent_sample"]),
    ]
    ends = [
        helper.make_tensor_value_info("sample", TensorProto.FLOAT, [1, 3, "h", "w"]),
        helper.make_tensor_value_info("latent_sample", TensorProto.FLOAT, [1, 4, "y", "x"]),
    ]
    graph = helper.make_graph(
        nodes, "encoder", ends[:1], ends[1:], [numpy_helper.from_array(mix[..., None, None], "mix")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir()
    onnx.save(model, path)


@pytest.fixture
def painting_bench(tmp_path: Path) -> Iterator[Workbench]:
    """The tiny pack with an encoder graph, and `example.png` of 70x65 pixels."""
    folder = Path(shutil.copytree(TINY, tmp_path / "packs" / "tiny"))
    write_encoder(folder / "vae_encoder" / "model.onnx")
    manifest = json.loads((folder / "pack.json").read_text("utf-8"))
    name = "vae_encoder/model.onnx"
    files = {name: file_entry(folder / name).model_dump()}
    manifest["graphs"]["vae_encoder"] = {"file": name, "precision": "fp32", "files": files}
    (folder / "pack.json").write_text(json.dumps(manifest), "utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (65, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "example.png")
    bench = Workbench([tmp_path / "packs"], {"*": "tiny"}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()
