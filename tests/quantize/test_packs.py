"""The real command, from checkpoint to pack, and the packs in real sessions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from PIL import Image

from edgegen.pack import Pack
from quantize.cli import cli, evaluation_lines
from quantize.graphs import load_graph, op_counts
from quantize.metrics import psnr_db
from quantize.preview import measure_pack
from quantize.runner import Runner

ROLES = ("text_encoder", "unet", "vae_decoder")
PRECISIONS = ("fp32", "fp16", "int8", "w8", "w4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pack_is_whole_and_says_what_the_checkpoint_said(packs: dict[str, Pack], precision: str):
    pack = packs[precision]
    pack.verify()
    m = pack.manifest
    assert (m.name, m.title, m.licence) == ("tiny", "Tiny random checkpoint", "Apache-2.0")
    assert (m.prediction_type, m.rescale_zero_terminal_snr, m.timestep_spacing) == (
        "v_prediction",
        True,
        "trailing",
    )
    assert (m.latent_channels, m.latent_downscale, m.latent_scale) == (4, 4, 0.5)
    assert (m.defaults.sampler, m.defaults.steps, m.defaults.guidance, m.defaults.width) == (
        "dpmpp_2m",
        3,
        2.0,
        32,
    )
    assert m.tokenizer.max_length == 16
    assert m.provenance["source"] == "random numbers"
    assert {g.precision for g in m.graphs.values()} == {precision}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_keep_the_contracts_names_types_and_free_axes(packs: dict[str, Pack], precision: str):
    wanted = {
        "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
        "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
        "vae_decoder": (["latent_sample"], ["sample"]),
    }
    for role, names in wanted.items():
        path = packs[precision].graph(role)
        onnx.checker.check_model(str(path))
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs(), session.get_outputs()
        assert ([i.name for i in inputs], [o.name for o in outputs]) == names
        assert {t.type for t in [*inputs, *outputs]} <= {"tensor(float)", "tensor(int64)"}
        assert inputs[0].shape[0] == "batch"
        assert next(o.version for o in load_graph(path, weights=False).opset_import if not o.domain) >= 17


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_denoiser_takes_any_batch_and_size(packs: dict[str, Pack], precision: str):
    session = ort.InferenceSession(str(packs[precision].graph("unet")), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    single = {
        "sample": rng.standard_normal((1, 4, 6, 10), np.float32),
        "timestep": np.array([500], np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 16, 16), np.float32),
    }
    pair = {name: np.repeat(x, 2, axis=0) if name != "timestep" else x for name, x in single.items()}
    one, two = session.run(None, single)[0], session.run(None, pair)[0]
    assert two.shape == (2, 4, 6, 10)
    np.testing.assert_allclose(two[1:], one, atol=1e-3)


def test_precisions_draw_nearly_the_same_picture(packs: dict[str, Pack]):
    pictures = {
        name: Runner.of_pack(pack, threads=1).picture("a red apple", 3) for name, pack in packs.items()
    }
    assert pictures["fp32"].shape == (32, 32, 3)
    assert pictures["fp32"].std() > 3
    assert psnr_db(pictures["fp32"], pictures["fp16"]) > 45
    assert psnr_db(pictures["fp32"], pictures["int8"]) > 25
    assert psnr_db(pictures["fp32"], pictures["w8"]) > 35
    assert psnr_db(pictures["fp32"], pictures["w4"]) > 18


def test_the_devices_pipeline_draws_the_same_picture(packs: dict[str, Pack]):
    from edgegen.engine.pipeline import Picture, TextToImage
    from edgegen.engine.request import GenerationSettings

    settings = GenerationSettings("a red apple", "", 3, 3, 2.0, 32, 32, "dpmpp_2m")
    with TextToImage(packs["int8"], provider="cpu", threads=1, batch_guidance=True) as pipeline:
        *_, picture = pipeline.generate(settings)
    assert isinstance(picture, Picture)
    recorded = Runner.of_pack(packs["int8"], threads=1).picture("a red apple", 3)
    assert psnr_db(picture.pixels, recorded) > 40


def test_a_seed_always_draws_the_same_and_another_seed_does_not(packs: dict[str, Pack]):
    runner = Runner.of_pack(packs["int8"], threads=1)
    first = runner.picture("blue cat", 1)
    assert np.array_equal(first, runner.picture("blue cat", 1))
    assert not np.array_equal(first, runner.picture("blue cat", 2))


def test_smaller_precisions_are_smaller(packs: dict[str, Pack]):
    data = {p: (packs[p].folder / "unet" / "model.onnx.data").stat().st_size for p in PRECISIONS}
    assert data["fp16"] < 0.6 * data["fp32"]
    assert data["int8"] < 0.5 * data["fp32"]
    assert data["w4"] < data["w8"] < 0.5 * data["fp32"]


def test_attention_is_one_node_and_stays_float(packs: dict[str, Pack]):
    for precision in PRECISIONS:
        text = op_counts(load_graph(packs[precision].graph("text_encoder")))
        unet = op_counts(load_graph(packs[precision].graph("unet")))
        assert text["MultiHeadAttention"] == 2
        assert (
            unet["MultiHeadAttention"] == 2 * 4 + 1
        )  # self and cross in four blocks, and the text's pooling
        assert "Softmax" not in text | unet


def test_int8_computes_in_integers(packs: dict[str, Pack], tmp_path: Path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(packs["int8"].graph("unet")), options, providers=["CPUExecutionProvider"])
    counts = op_counts(onnx.load(options.optimized_model_filepath, load_external_data=False))
    assert counts["QLinearConv"] >= 8
    assert counts["MatMulIntegerToFloat"] >= 20


def test_large_weights_lie_on_pages(packs: dict[str, Pack]):
    for precision in PRECISIONS:
        for role in ROLES:
            for tensor in load_graph(packs[precision].graph(role), weights=False).graph.initializer:
                place = {entry.key: entry.value for entry in tensor.external_data}
                if place:
                    length = int(place["length"])
                    assert int(place["offset"]) % (4096 if length >= 65536 else 64) == 0


def test_the_evaluation_is_in_the_pack_and_printed(packs: dict[str, Pack]):
    data = packs["int8"].manifest.evaluation
    assert data["pictures"]["pictures"] == 2
    assert 0.5 < data["pictures"]["ssim"] <= 1
    assert data["cost"]["peak_mb"] > 20
    assert packs["int8"].manifest.min_ram_mb == data["cost"]["peak_mb"]
    assert packs["int8"].manifest.ram_mb.full == data["memory"]["full"]["total_mb"]
    assert packs["fp32"].manifest.ram_mb is None, "it was not evaluated"
    unet = data["graphs"]["unet"]
    assert unet["sqnr_db"] > 20
    by_timestep = unet["sqnr_db_by_timestep"]
    assert [t for t, _ in by_timestep] == sorted((t for t, _ in by_timestep), reverse=True)
    assert len(by_timestep) == 3, "one for each step of the pack's defaults"
    assert min(db for _, db in by_timestep) <= unet["sqnr_db"] <= max(db for _, db in by_timestep)
    assert "sqnr_db_by_timestep" not in data["graphs"]["vae_decoder"]
    layers = list(unet["layer_sqnr_db"].values())
    assert layers == sorted(layers)
    assert len(layers) > 30
    assert any("pictures against float32" in line for line in evaluation_lines(packs["int8"].manifest))
    sheet = Image.open(packs["int8"].folder.parent / "int8.png")
    assert sheet.width > 4 * 32


def test_an_evaluated_pack_says_how_its_latents_look(packs: dict[str, Pack]):
    manifest = packs["int8"].manifest
    assert manifest.latent_rgb is not None
    assert len(manifest.latent_rgb.factors) == manifest.latent_channels
    assert "latent_rgb" not in (packs["fp32"].folder / "pack.json").read_text(), "nothing was drawn"
    assert measure_pack(packs["fp32"], ["a red apple"]) is not None


def test_float_layers_reach_the_target(packs: dict[str, Pack]):
    unet = packs["int8"].manifest.evaluation["graphs"]["unet"]
    assert unet["calibration_sqnr_db"] >= unet["calibration_sqnr_db_all_int8"]
    if unet["calibration_sqnr_db"] < 30:  # the budget was spent
        assert unet["float_layers"]


def test_the_encoder_undoes_the_decoder_in_shape(packs: dict[str, Pack]):
    session = ort.InferenceSession(
        str(packs["int8"].graph("vae_encoder")), providers=["CPUExecutionProvider"]
    )
    latents = session.run(None, {"sample": np.zeros((1, 3, 32, 48), np.float32)})[0]
    assert latents.shape == (1, 4, 8, 12)


def test_compare_prints_both_packs_and_the_drift(packs: dict[str, Pack], prompts: Path, tmp_path: Path):
    args = ["compare", str(packs["fp32"].folder), str(packs["fp16"].folder), "--prompts", str(prompts)]
    done = CliRunner().invoke(cli, [*args, "--sheet", str(tmp_path / "sheet.png")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 pictures: PSNR" in done.output
    assert (tmp_path / "sheet.png").exists()


def test_nothing_of_the_build_machine_is_in_a_pack(packs: dict[str, Pack]):
    for pack in packs.values():
        assert str(pack.folder.parent.parent).encode() not in (pack.folder / "pack.json").read_bytes()
        for role in ROLES:
            assert b"/site-packages/" not in pack.graph(role).read_bytes()
        assert (
            json.loads((pack.folder / "pack.json").read_text())["provenance"]["quantized"]["checkpoint"]
            == "tiny"
        )
