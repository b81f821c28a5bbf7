"""Folders of graphs that others exported: read, checked, made to fit, and packed without exporting again."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import numpy as np
import onnx
import onnxruntime as ort
import onnxsources
import pytest
import torch
from onnx import TensorProto, helper

from edgegen.pack import Pack
from quantize import weights
from quantize.build import BuildOptions, build_pack
from quantize.convert import Int8Options
from quantize.graphs import load_graph, op_counts
from quantize.metrics import relative_error
from quantize.onnximport import import_graph
from quantize.progress import Progress
from quantize.runner import Runner
from quantize.source import SourceError, open_source


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("diffusers")
    return {family: families.write_family(folder / family, family) for family in ("sd1", "sdxl")}


@pytest.fixture(scope="module")
def folders(diffusers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    return {family: onnxsources.write_onnx(path, folder / family) for family, path in diffusers.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["sd1"], tmp_path / "copy"))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_graphs_and_configs_say_what_it_is(folders: dict[str, Path], diffusers: dict[str, Path], family: str):
    found, wanted = open_source(folders[family]), open_source(diffusers[family])
    assert found.layout == "onnx"
    assert (found.roles, found.latent_scale, found.sampler) == (
        wanted.roles,
        wanted.latent_scale,
        wanted.sampler,
    )
    assert (found.words_width, found.schedule) == (wanted.words_width, wanted.schedule)
    assert found.is_sdxl == (family == "sdxl")
    assert found.native_size == (64 if family == "sdxl" else 512), "the config's, else the family's"


def test_sdxls_graphs_are_made_to_fit_and_still_compute_the_same(
    folders: dict[str, Path], diffusers: dict[str, Path], tmp_path: Path
):
    source, models = open_source(folders["sdxl"]), open_source(diffusers["sdxl"])
    ids = np.random.default_rng(0).integers(0, families.VOCABULARY, (1, 77))
    with torch.no_grad():
        one = weights.load_text_encoder(models)(torch.from_numpy(ids), output_hidden_states=True)
        two = weights.load_text_encoder_2(models)(torch.from_numpy(ids), output_hidden_states=True)
    wanted = {
        "text_encoder": {"hidden_states": one.hidden_states[-2]},
        "text_encoder_2": {"hidden_states": two.hidden_states[-2], "text_embeds": two.text_embeds},
    }
    for role, outputs in wanted.items():
        session = imported(source, role, tmp_path)
        assert [output.name for output in session.get_outputs()] == list(outputs)
        for got, want in zip(session.run(None, {"input_ids": ids}), outputs.values(), strict=True):
            assert relative_error(want.numpy(), got) < 1e-4


def test_a_whole_numbered_scalar_timestep_takes_floats(
    folders: dict[str, Path], diffusers: dict[str, Path], tmp_path: Path
):
    session = imported(open_source(folders["sdxl"]), "unet", tmp_path)
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()][1] == (
        "timestep",
        "tensor(float)",
        1,
    )
    rng = np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((1, 4, 8, 8), np.float32),
        "timestep": np.array([500.7], np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 77, 192), np.float32),
        "text_embeds": rng.standard_normal((1, 128), np.float32),
        "time_ids": np.array([[64, 64, 0, 0, 64, 64]], np.float32),
    }
    more = {name: torch.from_numpy(feeds[name]) for name in ("text_embeds", "time_ids")}
    latents, words = (torch.from_numpy(feeds[name]) for name in ("sample", "encoder_hidden_states"))
    with torch.no_grad():
        model = weights.load_unet(open_source(diffusers["sdxl"]))
        wanted = model(latents, 501, words, added_cond_kwargs=more).sample.numpy()
    assert relative_error(wanted, session.run(None, feeds)[0]) < 1e-4


def imported(source: object, role: str, folder: Path) -> ort.InferenceSession:
    path = folder / role / "model.onnx"
    import_graph(source, role, path)  # type: ignore[arg-type]
    onnx.checker.check_model(str(path))
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_it_becomes_an_int8_pack_with_attention_as_one_node(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "source").symlink_to(folders["sd1"])
    options = BuildOptions(
        name="imported",
        steps=2,
        calibration_prompts=["a blue cat"],
        evaluate=False,
        int8=Int8Options(sensitivity=False, method="minmax"),
    )
    monkeypatch.setattr("quantize.source.Source.native_size", 64)  # there is no config to say it
    said = io.StringIO()
    build_pack(tmp_path / "source", tmp_path / "pack", options, Progress("json", said))
    pack = Pack.open(tmp_path / "pack")
    pack.verify()
    assert "read unet as it was exported" in said.getvalue()
    counts = op_counts(load_graph(pack.graph("unet"), weights=False))
    assert counts["MultiHeadAttention"] == 2 * (3 + 1 + 6)
    assert "Softmax" not in counts
    assert counts["DequantizeLinear"] > 50
    assert Runner.of_pack(pack, threads=1).picture("a red apple", 1).shape == (64, 64, 3)


def change(path: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def fixed_side(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


def half(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Magic", ["sample"], ["x"], domain="my.ops"))


def renamed(model: onnx.ModelProto) -> None:
    model.graph.input[0].name, model.graph.output[0].name = "latents", "noise"


def older(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (fixed_batch, ["batches of 2", "dynamic axes"]),
        (fixed_side, ["one size alone"]),
        (half, ["sample in FP16; export it in float32"]),
        (foreign, ["operators of 'my.ops'"]),
        (
            renamed,
            ["no input sample", "input latents, which nothing feeds", "no output out_sample; it has noise"],
        ),
        (older, ["opset 11; at least 13"]),
    ],
)
def test_graphs_that_do_not_fit_are_told_why(copy: Path, edit: Callable[..., None], said: list[str]):
    change(copy / "unet" / "model.onnx", edit)
    with pytest.raises(SourceError) as caught:
        open_source(copy)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_everything_missing_is_named_at_once(copy: Path):
    for name in ("text_encoder", "scheduler", "tokenizer"):
        shutil.rmtree(copy / name)
    (copy / "vae_decoder" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(SourceError) as caught:
        open_source(copy)
    for part in (
        "text_encoder/model.onnx is missing",
        "scheduler_config.json is missing",
        "tokenizer/ holds neither",
        "vae_decoder/model.onnx is no ONNX graph",
    ):
        assert part in str(caught.value)


def test_an_encoder_that_is_not_there_is_named(copy: Path, tmp_path: Path):
    with pytest.raises(SourceError, match="no vae_encoder/model"):
        import_graph(open_source(copy), "vae_encoder", tmp_path / "model.onnx")


def test_weights_outside_the_graphs_folder_are_not_read(copy: Path, tmp_path: Path):
    (tmp_path / "secret").write_bytes(bytes(1 << 20))

    def point_outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret")

    change(copy / "unet" / "model.onnx", point_outside)
    with pytest.raises(SourceError, match="its weights cannot be read"):
        import_graph(open_source(copy), "unet", tmp_path / "out" / "model.onnx")
