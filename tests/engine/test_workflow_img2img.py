"""A picture in, a picture out: the tiny pack with a small real encoder graph beside its others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgegen.engine.estimate import graph_runs
from edgegen.engine.executor import Executor, NodePictures, NodeProgress
from edgegen.engine.nodes import Latents, check_for
from edgegen.engine.workbench import Workbench
from edgegen.pack import file_entry
from edgegen.settings import LimitSettings
from edgegen.workflow import parse_workflow

TINY = Path(__file__).parent.parent / "packs" / "tiny"
EXAMPLE = Path(__file__).parent.parent / "workflow" / "examples" / "sd15_img2img.json"


def write_encoder(path: Path) -> None:
    """Means of 8 x 8 pixels, each channel once and red twice: (1, 3, h, w) -> (1, 4, h / 8, w / 8)."""
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
def bench(tmp_path: Path) -> Workbench:
    folder = Path(shutil.copytree(TINY, tmp_path / "packs" / "tiny"))
    write_encoder(folder / "vae_encoder" / "model.onnx")
    manifest = json.loads((folder / "pack.json").read_text("utf-8"))
    name = "vae_encoder/model.onnx"
    files = {name: file_entry(folder / name).model_dump()}
    manifest["graphs"]["vae_encoder"] = {"file": name, "precision": "fp32", "files": files}
    (folder / "pack.json").write_text(json.dumps(manifest), "utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (65, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "example.png")
    return Workbench([tmp_path / "packs"], {"*": "tiny"}, tmp_path, LimitSettings(), "cpu", 1)


def test_the_example_runs_as_it_is(bench: Workbench) -> None:
    checked = check_for(bench, parse_workflow(EXAMPLE.read_bytes()))
    items = list(Executor(bench).run(checked))
    assert isinstance(items[-1], NodePictures)
    assert items[-1].shown.pixels[0].shape == (64, 64, 3)
    steps = [item.steps for item in items if isinstance(item, NodeProgress) and item.step]
    assert steps == [20] * 20


def test_the_examples_cost_is_foretold_by_its_pictures_header(bench: Workbench) -> None:
    runs = graph_runs(bench, check_for(bench, parse_workflow(EXAMPLE.read_bytes())))
    assert runs is not None
    sizes = {run.role: run.size for run in runs if run.size}
    assert sizes == {"vae_encoder": "64x64", "unet": "8x8", "vae_decoder": "8x8"}


def test_pictures_are_cut_in_the_middle_and_encoded_unscaled(bench: Workbench) -> None:
    from edgegen.engine.nodes import NODES

    image, _ = NODES["LoadImage"].run(bench, image="example.png")
    stages = bench.stages(bench.pack_for("anything"))
    (latents,) = NODES["VAEEncode"].run(bench, pixels=image, vae=stages)
    assert isinstance(latents, Latents)
    assert (latents.samples.shape, latents.size) == ((1, 4, 8, 8), (64, 64))
    assert np.allclose(latents.samples[0, 2, 0, 0], image[0, 2, 0:8, 3:11].mean(), atol=1e-6)
