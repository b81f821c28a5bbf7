"""LoRA in workflows and in `generate`: the same change, the same picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")  # whoever has only the device's packages builds no table of layers

from edgegen.engine.estimate import graph_runs, loras_of, peak_memory
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.lora.merge import LoraSet, LoraUse
from edgegen.engine.metadata import describe
from edgegen.engine.nodes import check_for, packs_of
from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest, LoraError
from edgegen.jobs.job import parse_request
from edgegen.jobs.renderer import PipelineRenderer
from edgegen.pack import LAYER_TABLE, Pack, file_entry, write_manifest
from edgegen.settings import EngineSettings, LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from quantize.graphs import initializers, load_graph, save_graph, weight_name
from quantize.layertable import ADAPTABLE, write_layer_table
from tests.loras import write_tensors
from tests.support import assert_cut_of

TINY = Path(__file__).parent.parent / "packs" / "tiny"
NAMED = {
    "unet": "/unet/time_embedding/linear_1/Gemm",
    "text_encoder": "/clip/text_model/encoder/layers.0/self_attn/v_proj/MatMul",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The tiny pack with tables of its layers."""
    folder = tmp_path_factory.mktemp("packs") / "tiny"
    shutil.copytree(TINY, folder)
    manifest = Pack.open(folder).manifest
    graphs = dict(manifest.graphs)
    for role in ADAPTABLE[:2]:
        path = folder / role / "model.onnx"
        model = load_graph(path)
        name_a_layer(model, NAMED[role])
        save_graph(model, path)
        write_layer_table(path)
        names = ("model.onnx", "model.onnx.data", LAYER_TABLE)
        files = {f"{role}/{name}": file_entry(folder / role / name) for name in names}
        graphs[role] = graphs[role].model_copy(update={"files": files})
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs}))
    return Pack.open(folder)


def name_a_layer(model: Any, name: str) -> None:
    """As the tracing exporter names nodes; those of this pack have no names."""
    weights = initializers(model)
    next(node for node in model.graph.node if weight_name(node, weights)).name = name


def write_lora(path: Path, seed: int) -> Path:
    """Changes to the tiny pack's denoiser and text encoder."""
    rng = np.random.default_rng(seed)
    unet, words = "lora_unet_time_embedding_linear_1", "lora_te_text_model_encoder_layers_0_self_attn_v_proj"
    tensors = {}
    for stem, outputs, inputs in ((unet, 16, 4), (words, 8, 8)):
        tensors[f"{stem}.lora_down.weight"] = rng.normal(size=(2, inputs)).astype(np.float16)
        tensors[f"{stem}.lora_up.weight"] = rng.normal(size=(outputs, 2)).astype(np.float16)
    return write_tensors(path, tensors)


@pytest.fixture
def bench(pack: Pack, tmp_path: Path) -> Iterator[Workbench]:
    (tmp_path / "loras" / "styles").mkdir(parents=True)
    write_lora(tmp_path / "loras" / "ink.safetensors", 1)
    write_lora(tmp_path / "loras" / "styles" / "wax.safetensors", 2)
    bench = Workbench([pack.folder.parent], {}, tmp_path / "input", LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def graph(*chain: tuple[str, float, float]) -> dict[str, Any]:
    how = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    data: dict[str, Any] = {
        "0": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["0", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}},
    }
    last = "0"
    for k, (name, model, clip) in enumerate(chain):
        links = {"model": [last, 0], "clip": [last, 1]}
        strengths = {"strength_model": model, "strength_clip": clip}
        last = f"lora{k}"
        data[last] = {"class_type": "LoraLoader", "inputs": {"lora_name": name, **links, **strengths}}
    for key, text in (("6", "a red apple"), ("7", "a dog")):
        data[key] = {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": [last, 1]}}
    links = {"model": [last, 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    data["3"] = {"class_type": "KSampler", "inputs": {**how, **links}}
    return data


def pixels(bench: Workbench, data: dict[str, Any], executor: Executor | None = None) -> np.ndarray:
    items = (executor or Executor(bench)).run(check_for(bench, workflow_from(data)))
    (found,) = [item for item in items if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def generated(pack: Pack, *loras: LoraUse) -> Picture:
    settings = GenerationSettings("a red apple", "a dog", 7, 2, 3.0, 64, 64, "euler", "normal", loras=loras)
    with TextToImage(pack, "cpu", 1) as engine:
        *_, picture = engine.generate(settings)
    assert isinstance(picture, Picture)
    return picture


def test_a_chain_of_loaders_draws_what_generate_draws(bench: Workbench, pack: Pack) -> None:
    folder = bench.lora_dir
    uses = (
        LoraUse(folder / "ink.safetensors", 1.0, 0.5),
        LoraUse(folder / "styles/wax.safetensors", -0.7, 1.0),
    )
    picture = generated(pack, *uses)
    got = pixels(bench, graph(("ink.safetensors", 1.0, 0.5), ("styles\\wax", -0.7, 1.0)))
    assert_cut_of(got[0], picture.pixels)
    told = [
        {"name": "ink.safetensors", "strength": 1.0, "clip": 0.5},
        {"name": "wax.safetensors", "strength": -0.7, "clip": 1.0},
    ]
    assert describe(picture)["loras"] == told


def test_a_job_names_files_of_the_folder(bench: Workbench, pack: Pack) -> None:
    folder = bench.lora_dir
    asked = {"prompt": "a red apple", "negative_prompt": "a dog", "seed": 7, "steps": 2, "guidance": 3.0}
    more = {"width": 64, "height": 64, "sampler": "euler", "schedule": "normal", "pack": "tiny"}
    loras = [{"name": "ink"}, {"name": "styles/wax.safetensors", "strength": 0.5, "clip": 0}]
    renderer = PipelineRenderer(
        EngineSettings(provider="cpu", threads=1), (pack.folder.parent,), LimitSettings(), loras=folder
    )

    def drawn(**changes: Any) -> np.ndarray:
        request = parse_request(
            {**asked, **more, **changes}, LimitSettings(), source="mqtt", new_id=lambda: "x"
        )
        *_, drawing = renderer.draw(request)
        drawing.save(folder.parent / "out.png")
        with Image.open(folder.parent / "out.png") as image:
            return np.asarray(image)

    uses = LoraUse(folder / "ink.safetensors"), LoraUse(folder / "styles/wax.safetensors", 0.5, 0)
    assert np.array_equal(drawn(loras=loras), generated(pack, *uses).pixels)
    assert np.array_equal(drawn(), generated(pack).pixels)  # and the next job has none
    with pytest.raises(BadRequest, match="loras: gone: no LoRA of that name"):
        drawn(loras=[{"name": "gone"}])


def test_the_denoiser_that_a_controlnet_leads_takes_the_same_changes(bench: Workbench, pack: Pack) -> None:
    loras = LoraSet([LoraUse(bench.lora_dir / "ink.safetensors")])
    assert loras.key("unet_control") == loras.key("unet") != ()
    assert loras.key("vae_decoder") == ()
    graphs = {**pack.manifest.graphs, "unet_control": Pack.open(TINY).manifest.graphs["unet"]}
    led = Pack(TINY, pack.manifest.model_copy(update={"graphs": graphs}))
    with pytest.raises(LoraError, match=r"graph unet_control has no layers\.json"):
        loras.merge(led, "unet_control")


def test_each_strength_counts_and_none_is_the_pack_itself(bench: Workbench, pack: Pack) -> None:
    plain = generated(pack)
    assert "loras" not in describe(plain)
    drawn = [pixels(bench, graph(("ink", *pair)))[0] for pair in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert_cut_of(drawn[0], plain.pixels)
    assert len({picture.tobytes() for picture in drawn}) == 4


def test_the_model_alone_can_be_changed(bench: Workbench) -> None:
    data = graph(("ink", 1.0, 0.0))
    wanted = pixels(bench, data)
    inputs = data["lora0"]["inputs"]
    kept = {name: inputs[name] for name in ("model", "lora_name", "strength_model")}
    data["lora0"] = {"class_type": "LoraLoaderModelOnly", "inputs": kept}
    for key in ("6", "7"):
        data[key]["inputs"]["clip"] = ["0", 1]
    assert np.array_equal(pixels(bench, data), wanted)


def test_a_file_that_changed_is_read_again(bench: Workbench) -> None:
    executor, data = Executor(bench), graph(("ink", 1.0, 1.0))
    before = pixels(bench, data, executor)
    path = write_lora(bench.lora_dir / "new", 3)
    path.replace(bench.lora_dir / "ink.safetensors")
    assert not np.array_equal(pixels(bench, data, executor), before)


@pytest.mark.parametrize(
    "name", ["gone", "../secret", "../loras/../secret.safetensors", "/etc/passwd", "a\0b", ""]
)
def test_names_lead_nowhere_else(bench: Workbench, name: str) -> None:
    write_lora(bench.lora_dir.parent / "secret.safetensors", 1)
    with pytest.raises(BadWorkflow, match="no LoRA of that name"):
        check_for(bench, workflow_from(graph((name, 1.0, 1.0))))


def test_what_is_wrong_with_a_file_shows_before_anything_runs(bench: Workbench) -> None:
    (bench.lora_dir / "bad.safetensors").write_bytes(b"not a LoRA at all")
    with pytest.raises(BadWorkflow, match=r"bad\.safetensors: is no \.safetensors"):
        check_for(bench, workflow_from(graph(("bad", 1.0, 1.0))))
    with pytest.raises(BadWorkflow, match="strength_model"):
        check_for(bench, workflow_from(graph(("ink", 101.0, 1.0))))


def test_checks_see_the_pack_through_loaders(bench: Workbench) -> None:
    data = graph(("ink", 1.0, 1.0))
    data["5"]["inputs"]["width"] = 16
    with pytest.raises(BadWorkflow, match="with pack tiny"):
        check_for(bench, workflow_from(data))


def test_the_estimate_counts_the_weights_that_are_merged(bench: Workbench, monkeypatch) -> None:
    data = graph(("ink", 0.8, 0.5), ("styles/wax", 1.0, 0.0))
    checked = check_for(bench, workflow_from(data))
    loras = loras_of(bench, checked)
    (uses,) = loras.values()
    assert [(use.path.name, use.model, use.clip) for use in uses] == [
        ("ink.safetensors", 0.8, 0.5),
        ("wax.safetensors", 1.0, 0.0),
    ]
    pack, together = bench.pack_for("tiny"), LoraSet(tuple(uses))
    merged = [v for role in ("unet", "text_encoder") for v in together.merge(pack, role, 1).values()]
    assert together.changed_bytes(pack) == sum(values.nbytes for values in merged)
    monkeypatch.setattr(LoraSet, "changed_bytes", lambda *_: 10 * 10**6)  # as a larger pack's
    packs, runs = packs_of(bench, checked), graph_runs(bench, checked)
    told, plain = (peak_memory(bench, packs, runs, found)[0] for found in (loras, None))
    assert told is not None and plain is not None
    assert told - plain == 14, "in mode full they are there twice while the graph loads"
