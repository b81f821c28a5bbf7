"""SDXL and LCM, from checkpoint to INT8 pack, and the pictures diffusers' own pipelines draw of them."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionXLPipeline

from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.engine.pipeline import Picture, TextToImage
from edgegen.engine.providers import choose_provider
from edgegen.engine.request import resolve_settings
from edgegen.jobs.job import JobRequest
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from quantize import weights
from quantize.build import BuildOptions, build_pack
from quantize.convert import Int8Options
from quantize.graphs import load_graph, op_counts
from quantize.metrics import psnr_db
from quantize.runner import Runner
from quantize.source import Source, open_source

PROMPT, SEED = "a red apple", 5
FAMILIES = ("sdxl", "lcm")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {family: families.write_family(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def packs(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pack]:
    """`<family>-fp32` and `<family>-int8`, opened."""
    folder, made = tmp_path_factory.mktemp("packs"), {}
    for family, source in checkpoints.items():
        for precision in ("fp32", "int8"):
            out_name = f"{family}-{precision}"
            options = BuildOptions(
                precision=precision,  # type: ignore[arg-type]
                steps=2,
                calibration_prompts=["a blue cat"],
                evaluate=False,
                with_encoder=out_name == "lcm-int8",
                int8=Int8Options(sensitivity=False, method="minmax"),
            )
            build_pack(source, folder / out_name, options)
            made[out_name] = Pack.open(folder / out_name)
    return made


def words_of(source: Source, text: str) -> dict[str, torch.Tensor]:
    """Both text encoders in PyTorch, read as diffusers' SDXL pipeline reads them."""
    file = source.tokenizer / "tokenizer.json"
    first, second = (
        torch.from_numpy(ClipTokenizer.from_file(file, 77, pad).encode(text)) for pad in (None, 0)
    )
    with torch.no_grad():
        one = weights.load_text_encoder(source)(first, output_hidden_states=True)
        two = weights.load_text_encoder_2(source)(second, output_hidden_states=True)
    states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    return {"prompt_embeds": states, "pooled_prompt_embeds": two.text_embeds}


def test_sdxl_draws_what_diffusers_draws(checkpoints: dict[str, Path], packs: dict[str, Pack]):
    source, pack = open_source(checkpoints["sdxl"]), packs["sdxl-fp32"]
    pipeline = StableDiffusionXLPipeline(
        vae=weights.load_vae(source),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=weights.load_unet(source),
        scheduler=families.scheduler("sdxl"),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    plain = {"negative_prompt": None}  # which is zeros, not the empty prompt
    wanted = pipeline(
        **words_of(source, PROMPT),
        **plain,
        num_inference_steps=2,
        guidance_scale=pack.manifest.defaults.guidance,
        width=pack.manifest.defaults.width,
        height=pack.manifest.defaults.height,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).images[0]
    got = Runner.of_pack(pack, threads=1).picture(PROMPT, SEED)
    assert got.std() > 3
    assert np.abs(wanted * 255 - got).max() <= 2


def test_lcm_draws_what_diffusers_draws(checkpoints: dict[str, Path], packs: dict[str, Pack]):
    source, pack = open_source(checkpoints["lcm"]), packs["lcm-fp32"]
    pipeline = LatentConsistencyModelPipeline(
        vae=weights.load_vae(source),
        text_encoder=weights.load_text_encoder(source),
        tokenizer=None,
        unet=weights.load_unet(source),
        scheduler=families.scheduler("lcm"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    ids = torch.from_numpy(ClipTokenizer.from_file(pack.tokenizer_path).encode(PROMPT))
    with torch.no_grad():
        words = pipeline.text_encoder(ids).last_hidden_state
    wanted = pipeline(
        prompt_embeds=words,
        num_inference_steps=2,
        guidance_scale=pack.manifest.defaults.guidance,
        width=pack.manifest.defaults.width,
        height=pack.manifest.defaults.height,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).images[0]
    got = Runner.of_pack(pack, threads=1).picture(PROMPT, SEED)
    assert got.std() > 3
    assert np.abs(wanted * 255 - got).max() <= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_packs_are_whole_and_draw_nearly_the_same(packs: dict[str, Pack], family: str):
    pack = packs[f"{family}-int8"]
    pack.verify()
    drawn = {
        p: Runner.of_pack(packs[f"{family}-{p}"], threads=1).picture(PROMPT, SEED) for p in ("fp32", "int8")
    }
    assert psnr_db(drawn["fp32"], drawn["int8"]) > 20
    for role in pack.manifest.graphs:
        assert op_counts(load_graph(pack.graph(role), weights=False))["DequantizeLinear"] > 5, role


def test_the_manifest_says_what_each_family_adds(packs: dict[str, Pack]):
    sdxl, lcm = packs["sdxl-int8"].manifest, packs["lcm-int8"].manifest
    drawing = {"text_encoder", "unet", "vae_decoder"}
    assert (sdxl.family, set(sdxl.graphs)) == ("sdxl", drawing | {"text_encoder_2"})
    assert sdxl.tokenizer_2 is not None
    assert (sdxl.tokenizer_2.pad_token_id, sdxl.guidance_embedding_dim) == (0, None)
    assert (lcm.family, set(lcm.graphs)) == ("lcm", drawing | {"vae_encoder"})
    assert (lcm.tokenizer_2, lcm.guidance_embedding_dim) == (None, families.GUIDANCE_DIM)


def test_the_embedded_guidance_and_the_words_matter(packs: dict[str, Pack]):
    runner = Runner.of_pack(packs["lcm-fp32"], threads=1)
    first = runner.picture(PROMPT, SEED)
    assert not np.array_equal(first, runner.picture("zzzz zzzz zzzz zzzz", SEED))
    manifest = packs["lcm-fp32"].manifest
    weak = manifest.model_copy(update={"defaults": manifest.defaults.model_copy(update={"guidance": 1.0})})
    other = Runner.of_pack(Pack(packs["lcm-fp32"].folder, weak), threads=1)
    assert not np.array_equal(first, other.picture(PROMPT, SEED))


@pytest.mark.parametrize("name", ["sdxl-fp32", "lcm-fp32", "sdxl-int8"])
def test_the_device_draws_the_same_picture(packs: dict[str, Pack], name: str):
    """With ONNX Runtime's attention, which the quantizer judges with; ours moves 8-bit levels by chance."""
    pack = packs[name]
    request = JobRequest(id="t", prompt=PROMPT, seed=SEED)
    with TextToImage(pack, choose_provider("cpu", operators="runtime"), 1) as engine:
        *_, picture = engine.generate(resolve_settings(pack, request, LimitSettings()))
    assert isinstance(picture, Picture)
    wanted = Runner.of_pack(pack, threads=1).picture(PROMPT, SEED)
    assert np.abs(picture.pixels.astype(int) - wanted).max() <= 1
