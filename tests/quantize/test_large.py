"""What keeps graphs and weights beyond memory within it: they stay in their files, one at a time is read."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from safetensors.torch import load_file, save_file

from quantize import runner
from quantize.fp16 import convert_fp16
from quantize.graphs import load_graph, save_graph, weights_read_from
from quantize.weights import load_diffusers

WIDTH = 96


def two_products() -> ModelProto:
    """x (batch, 96) -> x a b + c; a and b lie in a file, the small c in the graph."""
    rng = np.random.default_rng(0)
    sizes = {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH), "c": (WIDTH,)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in sizes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], "first"),
        helper.make_node("MatMul", ["xa", "b"], ["xab"], "second"),
        helper.make_node("Add", ["xab", "c"], ["y"], "sum"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save_graph(two_products(), path)
    return path


def in_files_of_their_own(graph: Path, folder: Path) -> ModelProto:
    """As the exporter writes beyond 2 GB: a file each, here also the small one."""
    folder.mkdir()
    onnx.save(
        load_graph(graph),
        folder / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    return load_graph(folder / "model.onnx", weights=False)


def test_a_graph_is_opened_without_its_weights_and_each_is_read_where_it_is_asked_for(graph: Path) -> None:
    wanted = {t.name: numpy_helper.to_array(t) for t in two_products().graph.initializer}
    with weights_read_from(graph) as model:
        for tensor in model.graph.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), wanted[tensor.name])
        assert model.ByteSize() < 2000  # nothing that was read stayed


def test_copied_from_files_a_graph_is_the_same_to_the_byte(graph: Path, tmp_path: Path) -> None:
    model = in_files_of_their_own(graph, tmp_path / "traced")
    assert all(map(uses_external_data, model.graph.initializer))
    copied = tmp_path / "copied" / "model.onnx"
    copied.parent.mkdir()
    save_graph(model, copied, tmp_path / "traced")
    for name in ("model.onnx", "model.onnx.data"):
        assert (copied.parent / name).read_bytes() == graph.with_name(name).read_bytes()


def test_files_are_removed_as_they_are_copied_when_two_copies_would_be_too_much(
    graph: Path, tmp_path: Path
) -> None:
    model = in_files_of_their_own(graph, tmp_path / "traced")
    save_graph(model, tmp_path / "copied.onnx", tmp_path / "traced", consume=True)
    assert [path.name for path in (tmp_path / "traced").iterdir()] == ["model.onnx"]
    assert (tmp_path / "copied.onnx.data").read_bytes() == graph.with_name("model.onnx.data").read_bytes()


def test_a_file_of_many_weights_stays_until_the_last_is_copied(graph: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied.onnx"
    save_graph(load_graph(graph, weights=False), copied, tmp_path, consume=True)
    assert not graph.with_name("model.onnx.data").exists()
    for tensor in load_graph(copied).graph.initializer:
        wanted = next(t for t in two_products().graph.initializer if t.name == tensor.name)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(wanted))


def test_paths_may_be_relative_though_weights_are_read_from_the_graphs_folder(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    convert_fp16(Path("model.onnx"), Path("half/model.onnx"), "1")
    assert (tmp_path / "half" / "model.onnx.data").stat().st_size < graph.with_name(
        "model.onnx.data"
    ).stat().st_size
    assert Path.cwd() == tmp_path


def test_a_huge_graph_runs_on_the_weights_in_its_file(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)}
    usual = runner.open_session(graph)
    monkeypatch.setattr(runner, "HUGE_BYTES", 1000)
    huge = runner.open_session(graph)
    levels = [session.get_session_options().graph_optimization_level for session in (usual, huge)]
    assert levels[0] != levels[1]
    assert huge.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"
    np.testing.assert_allclose(huge.run(None, feeds)[0], usual.run(None, feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kl")
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    torch.manual_seed(0)
    AutoencoderKL(**blocks, block_out_channels=(32,), latent_channels=4).save_pretrained(folder)
    return folder


def test_a_model_gets_the_files_tensors_in_float32_whatever_they_are_stored_as(
    autoencoder: Path, tmp_path: Path
) -> None:
    stored = load_file(autoencoder / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((autoencoder / "config.json").read_text("utf-8"), "utf-8")
    half = {name: tensor.half() for name, tensor in stored.items()}
    names = sorted(half)
    for i, some in enumerate((names[::2], names[1::2])):  # in two files, as large ones are published
        shard = tmp_path / f"diffusion_pytorch_model.fp16-0000{i + 1}-of-00002.safetensors"
        save_file({name: half[name] for name in some}, shard)
    model = load_diffusers(AutoencoderKL, tmp_path)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half[name].float()), name


def test_names_of_older_files_are_left_to_diffusers(autoencoder: Path, tmp_path: Path) -> None:
    stored = load_file(autoencoder / "diffusion_pytorch_model.safetensors")
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = dict(stored)
    for new, old in older.items():
        for name in [name for name in renamed if new in name]:
            renamed[name.replace(new, old)] = renamed.pop(name)
    assert set(renamed) != set(stored)
    save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((autoencoder / "config.json").read_text("utf-8"), "utf-8")
    model = load_diffusers(AutoencoderKL, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
