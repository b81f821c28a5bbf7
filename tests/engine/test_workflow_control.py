"""ControlNetLoader, ControlNetApply and ControlNetApplyAdvanced on real sessions of the tiny pack.

The ControlNet here says of a hint only its means, in other colours; that a real one is heard as diffusers
does is for `tests/quantize/test_controlnet.py`.
"""

from __future__ import annotations

import json
import shutil
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

from edgegen.component import ComponentManifest
from edgegen.engine.componentcost import with_components
from edgegen.engine.control import Control
from edgegen.engine.estimate import estimate_seconds, graph_runs, measure
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.memory import FULL
from edgegen.engine.nodes import NODES, check_for
from edgegen.engine.stages import Stages
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest
from edgegen.pack import FileEntry, GraphEntry, Pack, file_entry, write_manifest
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from quantize.control import add_control
from tests.engine.test_estimate import real_runs

TINY = Path(__file__).parent.parent / "packs" / "tiny"
# channels of the tiny denoiser's skip connections and middle, and pixels for each of their values
SKIPS = {"down_residual_0": (4, 8), "down_residual_1": (4, 8), "down_residual_2": (4, 16)}
SKIPS |= {"down_residual_3": (8, 16), "mid_residual": (8, 16)}


def write_net(folder: Path, words_width: int) -> None:
    rng = np.random.default_rng(4)
    nodes, weights, outputs = [], [], []
    for name, (channels, pixels) in SKIPS.items():
        mix = rng.normal(0, 3, (channels, 3, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(mix, f"{name}_mix"))
        how = {"kernel_shape": [pixels] * 2, "strides": [pixels] * 2}
        nodes.append(helper.make_node("AveragePool", ["controlnet_cond"], [f"{name}_mean"], **how))
        nodes.append(helper.make_node("Conv", [f"{name}_mean", f"{name}_mix"], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4))
    hint = helper.make_tensor_value_info("controlnet_cond", TensorProto.FLOAT, ["b", 3, "h", "w"])
    sample = helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["b", 4, "y", "x"])  # as real ones
    graph = helper.make_graph(nodes, "net", [sample, hint], outputs, weights)
    file = folder / "controlnet" / "model.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    name = "controlnet/model.onnx"
    entry = GraphEntry(file=name, precision="fp32", files={name: file_entry(file)})
    manifest = ComponentManifest(
        name=folder.name, title="Means", licence="CC0", kind="controlnet", words_width=words_width,
        graphs={"controlnet": entry},
    )  # fmt: skip
    write_manifest(folder, manifest)


def write_led(folder: Path) -> None:
    """The tiny pack with a denoiser that listens."""
    shutil.copytree(TINY, folder)
    add_control(folder / "unet" / "model.onnx")
    data = json.loads((folder / "pack.json").read_text("utf-8")) | {"name": folder.name}
    led = {"unet/control.onnx": file_entry(folder / "unet/control.onnx").model_dump()}
    files = {p: e for p, e in data["graphs"]["unet"]["files"].items() if not p.endswith(".onnx")}
    data["graphs"]["unet_control"] = {
        "file": "unet/control.onnx", "precision": "fp32", "files": files | led,
    }  # fmt: skip
    (folder / "pack.json").write_text(json.dumps(data), "utf-8")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    packs = tmp_path / "packs"
    write_led(packs / "led")
    write_net(packs / "means", _words_width())
    write_net(packs / "stranger", _words_width() + 1)
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    Image.fromarray(small.repeat(2, 0).repeat(2, 1)).save(tmp_path / "large.png")
    mapping = {"control_v11p_sd15_canny.pth": "means"}
    bench = Workbench([packs, TINY.parent], mapping, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def _words_width() -> int:
    graph = onnx.load(Pack.open(TINY).graph("unet"), load_external_data=False).graph
    words = next(i for i in graph.input if i.name == "encoder_hidden_states")
    return words.type.tensor_type.shape.dim[2].dim_value


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(apply: dict[str, Any] | None, pack: str = "led", net: str = "means", image: str = "small.png"):
    sides = {"positive": ["6", 0], "negative": ["7", 0]}
    if apply is not None and apply["class_type"] == "ControlNetApply":
        sides["positive"] = ["12", 0]
    elif apply is not None:
        sides = {"positive": ["12", 0], "negative": ["12", 1]}
    how = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    found = {
        "3": node("KSampler", **how, **sides, model=["4", 0], latent_image=["5", 0]),
        "4": node("CheckpointLoaderSimple", ckpt_name=pack),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a red apple", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("PreviewImage", images=["8", 0]),
    }
    if apply is None:
        return found
    loaders = {
        "10": node("ControlNetLoader", control_net_name=net),
        "11": node("LoadImage", image=image),
    }
    return found | loaders | {"12": apply}


def once(strength: float = 1.0) -> dict[str, Any]:
    links = {"conditioning": ["6", 0], "control_net": ["10", 0], "image": ["11", 0]}
    return node("ControlNetApply", **links, strength=strength)


def advanced(**changes: Any) -> dict[str, Any]:
    links = {
        "positive": ["6", 0], "negative": ["7", 0], "control_net": ["10", 0], "image": ["11", 0],
    }  # fmt: skip
    usual = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    return node("ControlNetApplyAdvanced", **{**links, **usual, **changes})


def drawn(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    found = list(Executor(bench).run(check_for(bench, workflow_from(data))))
    return next(item for item in found if isinstance(item, NodePictures)).shown.pixels[0]


def test_a_hint_leads_and_both_nodes_agree(bench: Workbench) -> None:
    """ControlNetApply on what is wanted also leads the other side, as ComfyUI has it."""
    plain, led = drawn(bench, graph(None)), drawn(bench, graph(once()))
    assert np.abs(led.astype(int) - plain).mean() > 1
    assert np.array_equal(led, drawn(bench, graph(advanced())))
    half = drawn(bench, graph(advanced(strength=0.5)))
    assert not np.array_equal(half, led)
    assert not np.array_equal(half, plain)


def test_where_it_does_not_speak_nothing_changes(bench: Workbench) -> None:
    plain = drawn(bench, graph(None))
    silent = [once(0.0), advanced(strength=0.0), advanced(start_percent=1.0), advanced(end_percent=0.0)]
    for apply in silent:
        assert np.array_equal(drawn(bench, graph(apply)), plain)
    parts = [drawn(bench, graph(advanced(**part))) for part in ({"end_percent": 0.4}, {"start_percent": 0.4})]
    whole = drawn(bench, graph(advanced()))
    assert not any(np.array_equal(one, other) for one in parts for other in (plain, whole))


def test_hints_of_other_sizes_are_scaled_to_the_picture(bench: Workbench) -> None:
    assert np.array_equal(
        drawn(bench, graph(once(), image="large.png")), drawn(bench, graph(once(), image="small.png"))
    )


def test_the_net_is_found_by_file_names(bench: Workbench) -> None:
    wanted = drawn(bench, graph(once()))
    for name in ("control_v11p_sd15_canny.pth", "controlnet/means.safetensors"):
        assert np.array_equal(drawn(bench, graph(once(), net=name)), wanted)


def test_a_part_of_the_run_in_timesteps(bench: Workbench) -> None:
    net = bench.controlnet(bench.component_for("controlnet", "means"))
    hint = np.zeros((1, 3, 8, 8), np.float32)
    middle = Control(net, hint, 1.0, 0.2, 0.6)  # of 1000: from 799.2 down to 399.6
    heard = [t for t in (999, 800, 799, 400, 399, 0) if middle.speaks_at(t, 1000)]
    assert heard == [799, 400]
    assert all(Control(net, hint).speaks_at(t, 1000) for t in (0, 999))


@pytest.mark.parametrize("apply", [once(), advanced()])
def test_a_pack_that_cannot_be_led_is_refused_by_the_check(bench: Workbench, apply: dict[str, Any]) -> None:
    with pytest.raises(BadWorkflow) as refused:
        check_for(bench, workflow_from(graph(apply, pack="tiny")))
    (problem,) = refused.value.found
    assert (problem.node_id, problem.input_name) == ("3", "model")
    assert "no graph unet_control" in problem.message
    assert "--with-control" in problem.message


def test_wrong_nets_are_refused(bench: Workbench) -> None:
    with pytest.raises(BadWorkflow) as refused:
        check_for(bench, workflow_from(graph(once(), net="canny")))
    (problem,) = refused.value.found
    assert (problem.node_id, problem.input_name) == ("10", "control_net_name")
    assert "Installed: means, stranger" in problem.message
    with pytest.raises(BadWorkflow, match="of another family"):
        drawn(bench, graph(once(), net="stranger"))
    upscale = node("UpscaleModelLoader", model_name="means")
    data = {"1": upscale, "2": node("LoadImage", image="small.png")}
    data["3"] = node("ImageUpscaleWithModel", upscale_model=["1", 0], image=["2", 0])
    data["4"] = node("PreviewImage", images=["3", 0])
    with pytest.raises(BadWorkflow, match="no upscaler but of kind controlnet"):
        check_for(bench, workflow_from(data))


def test_more_than_one_hint_is_refused(bench: Workbench) -> None:
    (net,) = NODES["ControlNetLoader"].run(bench, control_net_name="means")
    with pytest.raises(BadRequest, match="one picture leads"):
        NODES["ControlNetApply"].run(
            bench, conditioning=[], control_net=net, image=np.zeros((2, 3, 8, 8), np.float32), strength=1.0
        )


@pytest.mark.parametrize(
    ("apply", "sampler"),
    [
        (once(), {}),
        (advanced(start_percent=0.3, end_percent=0.7), {"steps": 5}),
        (advanced(end_percent=0.5), {"sampler_name": "heun", "steps": 4}),
        (once(), {"cfg": 1.0}),
        (advanced(strength=0.0), {}),
        (advanced(start_percent=0.5), {"denoise": 0.6, "steps": 4, "scheduler": "karras"}),
    ],
)
def test_the_estimate_counts_what_the_run_does(bench, monkeypatch, apply: Any, sampler: Any) -> None:
    data = graph(apply)
    data["3"]["inputs"] |= sampler
    checked = check_for(bench, workflow_from(data))
    runs = graph_runs(bench, checked)
    assert runs is not None
    assert {run.pack for run in runs if run.role == "controlnet"} <= {"means"}
    foretold = Counter({(run.role, run.size): times for run, times in runs.items()})
    assert foretold == real_runs(bench, checked, monkeypatch)


def test_two_nets_on_a_sampler_taken_apart_are_counted(bench, monkeypatch) -> None:
    data = graph(advanced(positive=["13", 0], negative=["13", 1], start_percent=0.4))
    data["13"] = advanced(end_percent=0.6)
    kept = ("model", "cfg", "positive", "negative", "latent_image")
    links = {name: data["3"]["inputs"][name] for name in kept}
    data["14"] = node("KSamplerSelect", sampler_name="dpmpp_2m")
    data["15"] = node("BasicScheduler", model=["4", 0], scheduler="karras", steps=6, denoise=1.0)
    how = {"add_noise": True, "noise_seed": 7, "sampler": ["14", 0], "sigmas": ["15", 0]}
    data["3"] = node("SamplerCustom", **links, **how)
    checked = check_for(bench, workflow_from(data))
    runs = graph_runs(bench, checked)
    assert runs is not None
    found = Counter({(run.role, run.size): times for run, times in runs.items()})
    assert found == real_runs(bench, checked, monkeypatch)
    assert found["controlnet", "8x8"] > found["unet_control", "8x8"], "both speak in the middle"


def test_controlnets_are_measured_and_their_files_counted(bench: Workbench) -> None:
    checked = check_for(bench, workflow_from(graph(once())))
    runs = graph_runs(bench, checked)
    assert runs is not None
    assert estimate_seconds(runs, "cpu", {}).seconds is None
    pace = measure(bench, runs)
    assert pace["means/cpu/controlnet/8x8"] > 0
    whole = estimate_seconds(runs, "cpu", pace).seconds
    without = estimate_seconds({r: n for r, n in runs.items() if r.role != "controlnet"}, "cpu", pace).seconds
    assert whole is not None and without is not None
    assert whole > without
    part = bench.component_for("controlnet", "means")
    entry = GraphEntry(file="m", precision="fp32", files={"m": FileEntry(sha256="0" * 64, bytes=400 * 10**6)})
    large = replace(part, manifest=part.manifest.model_copy(update={"graphs": {"controlnet": entry}}))
    assert with_components(1000, [large], ["full"]) == 2000
    assert with_components(1000, [large], ["low"]) == 1200, "it stays beside the denoiser"


def test_of_a_denoiser_that_is_led_for_a_while_one_graph_stays(bench: Workbench, monkeypatch) -> None:
    stages = bench.stages(bench.pack_for("led"))
    loaded: list[list[str]] = []
    unet = Stages.unet

    def watched(self: Stages, *args: Any) -> np.ndarray:
        found = unet(self, *args)
        loaded.append([role for role in self.sessions.loaded if role.startswith("unet")])
        return found

    monkeypatch.setattr(Stages, "unet", watched)
    data = graph(advanced(end_percent=0.5))
    data["3"]["inputs"]["steps"] = 4
    drawn(bench, data)
    assert stages.memory == FULL
    assert loaded[0] == ["unet_control"]
    assert loaded[-1] == ["unet"]
    assert all(len(roles) == 1 for roles in loaded)
    loaded.clear()
    one_side = graph(advanced())
    one_side["3"]["inputs"]["negative"] = ["7", 0]
    drawn(bench, one_side)
    assert loaded[-1] == ["unet", "unet_control"], "they take turns"
    assert all(len(roles) == 2 for roles in loaded[1:])
