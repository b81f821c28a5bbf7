"""A decoder in two parts: the same picture in a third of the memory, bit for bit, and who cannot be cut."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from edgegen.engine.memory import MODES
from edgegen.engine.metadata import describe
from edgegen.engine.pipeline import GenerationSettings, TextToImage
from edgegen.engine.providers import choose_provider
from edgegen.engine.session import GraphSession, open_session
from edgegen.engine.sessioncache import SessionCache
from edgegen.engine.tiles import map_exactly
from edgegen.errors import EngineError
from edgegen.pack import GraphEntry, Pack, file_entry, read_manifest, write_manifest
from quantize.cut import HEAD, TAIL, cut_decoder
from quantize.export import tidy, trace
from quantize.graphs import layers, load_graph, save_graph
from quantize.int8 import FORMATS, quantize_layers
from quantize.specs import GraphSpec, _VaeDecoder

TINY = Path(__file__).parent.parent / "packs" / "tiny"
CPU = choose_provider("cpu")
AXES = {0: "batch", 2: "height", 3: "width"}


def export_decoder(model: torch.nn.Module, path: Path) -> Path:
    path.parent.mkdir(parents=True)
    axes = {"latent_sample": AXES, "sample": AXES}
    module = _VaeDecoder(model, 0.0).eval()
    spec = GraphSpec("vae_decoder", module, ("latent_sample",), ("sample",), axes, lambda _, __: ())
    trace(spec, (torch.randn(1, 4, 8, 8),), path)
    tidy(path)
    return path


def in_int8(graph: Path, out: Path) -> Path:
    out.parent.mkdir(parents=True)
    model = load_graph(graph)
    names = [value for node in model.graph.node for value in node.output] + ["latent_sample"]
    wide = {name: TensorData(lowest=np.float32(-4), highest=np.float32(4)) for name in names}
    ranges = TensorsData(CalibrationMethod.MinMax, wide)
    save_graph(quantize_layers(model, ranges, layers(model), FORMATS["any"]), out)
    return out


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """AutoencoderTiny of true layout and few channels, float and INT8, each cut."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("cut")
    channels = (16, 16, 16, 16)
    model = AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels)
    fp32 = export_decoder(model, folder / "fp32" / "model.onnx")
    found = {"fp32": fp32, "int8": in_int8(fp32, folder / "int8" / "model.onnx")}
    assert all(cut_decoder(path) for path in found.values())
    return found


def opened(path: Path, mode: str = "full", threads: int = 1) -> GraphSession:
    return open_session(path, CPU, threads, memory=MODES[mode])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_tiles_of_the_tail_are_the_whole_bit_for_bit(decoders: dict[str, Path], precision: str) -> None:
    """In every memory mode and with any number of threads."""
    graph = decoders[precision]
    latents = np.random.default_rng(0).standard_normal((1, 4, 16, 12)).astype(np.float32)
    whole = opened(graph).output({"latent_sample": latents}, "sample")
    for (mode, threads), tile in itertools.product((("full", 1), ("low", 1), ("low", 2)), (5, 16, 99)):
        head, tail = (opened(graph.with_name(name), mode, threads) for name in (HEAD, TAIL))
        features = head.output({"latent_sample": latents}, "features")
        halo = int(tail.properties["edgegen.halo"])

        def run(part: np.ndarray, tail: GraphSession = tail) -> np.ndarray:
            return tail.output({"features": part}, "sample")

        assert (map_exactly(run, features, tile, halo, 2) == whole).all(), (mode, threads, tile)


def test_the_halo_is_what_the_tail_looks_at_and_no_less(decoders: dict[str, Path]) -> None:
    """After the last enlargement: a Conv, a block of three and a last one: 5 pixels, 3 rows of features."""
    tail = opened(decoders["fp32"].with_name(TAIL))
    assert (tail.properties["edgegen.halo"], tail.properties["edgegen.scale"]) == ("3", "2")
    x = np.random.default_rng(1).standard_normal((1, 16, 24, 24)).astype(np.float32)

    def run(part: np.ndarray) -> np.ndarray:
        return tail.output({"features": part}, "sample")

    assert (map_exactly(run, x, 8, 3, 2) == run(x)).all()
    assert (map_exactly(run, x, 8, 2, 2) != run(x)).any()


def test_the_parts_store_no_weight_twice(decoders: dict[str, Path]) -> None:
    folder = decoders["int8"].parent
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", HEAD, TAIL}
    for name in (HEAD, TAIL):
        onnx.checker.check_model(str(folder / name))
        outside = [t for t in load_graph(folder / name, weights=False).graph.initializer if t.external_data]
        assert {entry.value for t in outside for entry in t.external_data if entry.key == "location"} == {
            "model.onnx.data"
        }


def with_decoder(decoder: Path, folder: Path, roles: dict[str, str]) -> Pack:
    """The tiny pack with another decoder; `roles`: each to its file in the decoder's folder."""
    folder = Path(shutil.copytree(TINY, folder / "tiny"))
    shutil.rmtree(folder / "vae_decoder")
    shutil.copytree(decoder, folder / "vae_decoder")

    def entry(name: str) -> GraphEntry:
        names = (f"vae_decoder/{name}", "vae_decoder/model.onnx.data")
        return GraphEntry(file=names[0], precision="int8", files={n: file_entry(folder / n) for n in names})

    manifest = read_manifest(folder)
    graphs = {**manifest.graphs, **{role: entry(name) for role, name in roles.items()}}
    write_manifest(folder, manifest.model_copy(update={"graphs": graphs}))
    return Pack.open(folder)


@pytest.fixture
def pack(decoders: dict[str, Path], tmp_path: Path) -> Pack:
    """With AutoencoderTiny in INT8, cut."""
    roles = {"vae_decoder": "model.onnx", "vae_decoder_head": HEAD, "vae_decoder_tail": TAIL}
    return with_decoder(decoders["int8"].parent, tmp_path, roles)


def drawn(pack: Pack, mode: str, side: int = 256) -> tuple[str, list[str], str]:
    with TextToImage(pack, "cpu", 1, memory=mode) as engine:
        settings = GenerationSettings("a red apple", "", 1, 1, 1.0, side, 192, "euler")
        *_, picture = engine.generate(settings)
        assert describe(picture).get("decoding", "") == picture.decoding
        return hashlib.sha256(picture.pixels.tobytes()).hexdigest(), engine.sessions.loaded, picture.decoding


def test_a_pack_with_a_cut_decoder_draws_the_same_in_every_mode(pack: Pack, monkeypatch) -> None:
    assert pack.manifest.latent_downscale == 8
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(SessionCache, "on_cpu", False)
        whole, loaded, _ = drawn(pack, "full")
    assert loaded == ["text_encoder", "unet", "vae_decoder"]
    parts = ["vae_decoder_head", "vae_decoder_tail"]
    assert drawn(pack, "full") == (whole, ["text_encoder", "unet", *parts], "")
    assert drawn(pack, "low") == (whole, ["vae_decoder_tail"], "")
    assert drawn(pack, "tiled") == (whole, ["vae_decoder_tail"], ""), "nothing is gained by other tiles"


def test_a_tail_that_does_not_say_how_is_an_engine_error(pack: Pack) -> None:
    path = pack.folder / "vae_decoder" / TAIL
    model = load_graph(path, weights=False)
    onnx.helper.set_model_props(model, {"edgegen.halo": "-1", "edgegen.scale": "2"})
    path.write_bytes(model.SerializeToString())
    entry = pack.manifest.graphs["vae_decoder_tail"]
    files = {**entry.files, entry.file: file_entry(path)}
    tail = entry.model_copy(update={"files": files})
    write_manifest(
        pack.folder,
        pack.manifest.model_copy(update={"graphs": {**pack.manifest.graphs, "vae_decoder_tail": tail}}),
    )
    with pytest.raises(EngineError, match=r"vae_decoder_tail: edgegen\.halo is '-1'; it must be 0 to 64"):
        drawn(Pack.open(pack.folder), "low")


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    up, down = ("UpDecoderBlock2D",) * 4, ("DownEncoderBlock2D",) * 4
    model = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), up_block_types=up, down_block_types=down, norm_num_groups=4
    )
    return export_decoder(model, tmp_path_factory.mktemp("kl") / "kl" / "model.onnx")


def test_a_decoder_with_norms_stays_whole(kl: Path) -> None:
    assert not cut_decoder(kl)
    assert {path.name for path in kl.parent.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_mode_tiled_says_that_its_picture_is_another(kl: Path, tmp_path: Path) -> None:
    """`low` does not: there a decoder with norms sees the whole picture."""
    pack = with_decoder(kl.parent, tmp_path, {"vae_decoder": "model.onnx"})
    (whole, _, said), (low, *_), (tiled, _, told) = (drawn(pack, mode) for mode in ("full", "low", "tiled"))
    assert (low == whole, tiled == whole) == (True, False)
    assert (said, told) == ("", "tiles of 24 latents, 4 shared")
    small = drawn(pack, "tiled", side=192)
    assert small[2] == "", "24 latents are one tile: the whole"
