"""UpscaleModelLoader and ImageUpscaleWithModel on a real session of a graph that repeats pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgegen.component import Component, ComponentManifest
from edgegen.engine.componentcost import with_components
from edgegen.engine.estimate import estimate_seconds, graph_runs, measure
from edgegen.engine.executor import Executor, NodePictures, NodeProgress
from edgegen.engine.nodes import check_for
from edgegen.engine.providers import choose_provider
from edgegen.engine.upscaling import Upscaler
from edgegen.engine.workbench import Workbench
from edgegen.errors import OutOfMemory, UnknownPack
from edgegen.pack import FileEntry, GraphEntry, file_entry, find_pack, write_manifest
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from tests.engine.test_estimate import real_runs

TINY = Path(__file__).parent.parent / "packs" / "tiny"


def write_upscaler(folder: Path, multiple: int = 1) -> Component:
    """Every pixel three times along each side; sides that are no multiples make the graph fail."""
    graph_file = folder / "upscaler" / "model.onnx"
    graph_file.parent.mkdir(parents=True)
    sizes = {"fold": [1, 1, multiple, multiple], "scales": [1.0, 1.0, 3.0 * multiple, 3.0 * multiple]}
    kinds = {"fold": np.int64, "scales": np.float32}
    kernel = {"kernel_shape": [multiple] * 2, "strides": [multiple] * 2}
    nodes = [
        helper.make_node("MaxPool", ["image"], ["small"], **kernel),
        helper.make_node("Resize", ["small", "", "scales"], ["upscaled"], mode="nearest"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, f"{name}_h", f"{name}_w"])
        for name in ("image", "upscaled")
    ]
    weights = [numpy_helper.from_array(np.array(sizes["scales"], kinds["scales"]), "scales")]
    graph = helper.make_graph(nodes, "up", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), graph_file)
    name = "upscaler/model.onnx"
    entry = GraphEntry(file=name, precision="fp32", files={name: file_entry(graph_file)})
    manifest = ComponentManifest(
        name=folder.name, title="Thrice", licence="CC0", kind="upscaler", scale=3, multiple=multiple,
        graphs={"upscaler": entry},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return Component.open(folder)


def whole(upscaler: Upscaler, picture: np.ndarray) -> np.ndarray:
    """What all tiles become."""
    work = upscaler.enlarge(picture)
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    write_upscaler(tmp_path / "packs" / "thrice")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "example.png")
    folders = [tmp_path / "packs", TINY.parent]
    bench = Workbench(folders, {"4x-UltraSharp.pth": "thrice"}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def upscale(model_name: str) -> dict[str, Any]:
    links = {"upscale_model": ["2", 0], "image": ["1", 0]}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": model_name}},
        "3": {"class_type": "ImageUpscaleWithModel", "inputs": links},
        "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "up", "images": ["3", 0]}},
    }  # fmt: skip


def again(name: str, bench: Workbench) -> dict[str, Any]:
    """The workflow's picture, another one."""
    Image.new("RGB", (12, 12), "red").save(bench.input_dir / name)
    return {"1": {"class_type": "LoadImage", "inputs": {"image": name}}}


def enlarged(bench: Workbench, model_name: str) -> np.ndarray:
    found = list(Executor(bench).run(check_for(bench, workflow_from(upscale(model_name)))))
    (pictures,) = [item for item in found if isinstance(item, NodePictures)]
    return pictures.shown.pixels[0]


@pytest.mark.parametrize("name", ["thrice", "ESRGAN/thrice.safetensors", "4x-UltraSharp.pth"])
def test_a_workflow_enlarges_by_the_models_name(bench: Workbench, tmp_path: Path, name: str) -> None:
    wanted = np.asarray(Image.open(tmp_path / "example.png")).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(enlarged(bench, name), wanted)


def test_unknown_models_and_packs_of_another_kind_are_refused(bench: Workbench) -> None:
    for name in ("RealESRGAN_x4.pth", "tiny"):
        with pytest.raises(BadWorkflow) as refused:
            check_for(bench, workflow_from(upscale(name)))
        (problem,) = refused.value.found
        assert (problem.node_id, problem.input_name) == ("2", "model_name")
        assert "Installed: thrice" in problem.message
    with pytest.raises(Exception, match="it is an 'upscaler', for workflows"):
        find_pack("thrice", [TINY.parent.parent / "none", bench.input_dir / "packs"])
    with pytest.raises(UnknownPack):
        bench.pack_for("thrice")


def test_an_altered_model_is_refused(bench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "packs" / "thrice" / "upscaler" / "model.onnx"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(Exception, match="SHA-256"):
        enlarged(bench, "thrice")


def test_a_picture_that_would_become_too_large_is_refused(bench: Workbench, tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000)).save(tmp_path / "example.png")
    with pytest.raises(BadWorkflow, match="6000x3000 pixels; at most"):
        enlarged(bench, "thrice")


def test_tiles_and_odd_sides_give_the_whole(tmp_path: Path) -> None:
    """A picture larger than a tile, of sides that the graph does not take as they are."""
    plain = Upscaler(write_upscaler(tmp_path / "plain"), choose_provider("cpu"), 1)
    folded = Upscaler(write_upscaler(tmp_path / "folded", 2), choose_provider("cpu"), 1)
    picture = np.random.default_rng(1).random((1, 3, 150, 301), np.float32)
    plain.tile = 128
    assert np.allclose(whole(plain, picture), picture.repeat(3, 2).repeat(3, 3), atol=1e-6)
    assert whole(folded, picture[..., :33, :35]).shape == (1, 3, 99, 105)


def test_a_tile_that_does_not_fit_is_halved_until_the_smallest(tmp_path: Path) -> None:
    upscaler = Upscaler(write_upscaler(tmp_path / "thrice"), choose_provider("cpu"), 1)
    run, seen = upscaler._run, []

    def short_of_memory(tile: np.ndarray) -> np.ndarray:
        seen.append(max(tile.shape[2:]))
        if max(tile.shape[2:]) > upscaler_fits:
            raise OutOfMemory("graph upscaler failed: not enough memory")
        return run(tile)

    upscaler._run = short_of_memory  # type: ignore[method-assign]
    picture, upscaler_fits = np.random.default_rng(1).random((1, 3, 140, 600), np.float32), 256
    assert np.allclose(whole(upscaler, picture), picture.repeat(3, 2).repeat(3, 3), atol=1e-6)
    assert (seen[:2], upscaler.tile) == ([512, 256], 256)
    upscaler_fits = 64
    with pytest.raises(OutOfMemory, match="no tile of 128 pixels fits"):
        whole(upscaler, picture)


def test_tiles_are_steps_and_a_run_may_end_between_two(bench: Workbench, tmp_path: Path) -> None:
    Image.new("RGB", (600, 900)).save(tmp_path / "example.png")
    checked = check_for(bench, workflow_from(upscale("thrice")))
    told = [item for item in Executor(bench).run(checked) if isinstance(item, NodeProgress) and item.step]
    assert [(item.node_id, item.step, item.steps) for item in told] == [("3", k, 4) for k in (1, 2, 3, 4)]
    work = Executor(bench).run(checked)
    assert next(item for item in work if isinstance(item, NodeProgress) and item.step).all_steps == 4
    work.close()
    assert list(work) == []


def test_a_model_that_an_earlier_result_holds_is_freed_too(bench: Workbench) -> None:
    executor = Executor(bench)
    checked = check_for(bench, workflow_from(upscale("thrice")))
    for _ in range(2):  # the second time its loader does not run again
        list(executor.run(checked))
        model = bench.upscaler(bench.component_for("upscaler", "thrice"))
        assert model._sessions.loaded == ["upscaler"]
        bench.close()
        assert model._sessions.loaded == []
        checked = check_for(bench, workflow_from(upscale("thrice") | again("other.png", bench)))


@pytest.mark.parametrize("size", [(30, 20), (600, 900)])
def test_the_estimate_counts_tiles_and_the_larger_picture(bench, monkeypatch, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(bench.input_dir / "example.png")
    data = upscale("thrice")
    shrink = {"image": ["3", 0], "upscale_method": "area", "scale_by": 0.5}
    data["5"] = {"class_type": "ImageScaleBy", "inputs": shrink}
    data["6"] = {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"upscale_model": ["2", 0], "image": ["5", 0]},
    }
    data["4"]["inputs"]["images"] = ["6", 0] if size[0] < 100 else ["3", 0]
    checked = check_for(bench, workflow_from(data))
    runs = graph_runs(bench, checked)
    assert runs is not None
    foretold = Counter({(run.role, run.size): times for run, times in runs.items()})
    assert foretold == real_runs(bench, checked, monkeypatch)


def test_an_upscaler_is_measured_and_its_file_counted(bench: Workbench) -> None:
    runs = graph_runs(bench, check_for(bench, workflow_from(upscale("thrice"))))
    assert runs is not None
    pace = measure(bench, runs)
    assert pace["thrice/cpu/upscaler/20x30"] > 0
    assert estimate_seconds(runs, "cpu", pace).seconds == pytest.approx(pace["thrice/cpu/upscaler/20x30"])
    part = bench.component_for("upscaler", "thrice")
    entry = GraphEntry(file="m", precision="fp32", files={"m": FileEntry(sha256="0" * 64, bytes=400 * 10**6)})
    large = replace(part, manifest=part.manifest.model_copy(update={"graphs": {"upscaler": entry}}))
    assert with_components(1000, [large], ["mapped"]) == 2000, "it knows no memory modes"
    assert with_components(1000, [large], ["low"]) == 1100, "the denoiser is gone by then"
