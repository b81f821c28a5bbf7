"""ControlNets: packs of them, denoisers that listen, and the latents of diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from safetensors.torch import load_file, save_file

from edgegen.component import Component
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.schedulers import make_scheduler
from edgegen.engine.nodes import NODES
from edgegen.engine.request import noise_schedule
from edgegen.engine.workbench import Workbench
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from quantize import weights
from quantize.cli import cli
from quantize.control import ControlError, add_control
from quantize.controlnets import find_controlnet
from quantize.refusal import SourceError
from quantize.source import open_source

FAMILIES = ("sd1", "sdxl")
NEAR = 1e-3
SEED, GUIDANCE, STEPS = 5, 3.0, 4
BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@torch.no_grad()
def write_controlnet(unet_folder: Path, folder: Path) -> Path:
    """A copy of the denoiser's way down whose zero convolutions are not zero: else it would say nothing."""
    torch.manual_seed(3)
    unet = weights.load_diffusers(families.UNet2DConditionModel, unet_folder)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            weight.normal_(std=0.2)
    net.save_pretrained(folder)
    return folder


def run(*args: object) -> None:
    cli.main([*map(str, args), "--quiet"], standalone_mode=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<family>` and `<family>-net`: checkpoints; the same in `packs`: what is made of them."""
    base = tmp_path_factory.mktemp("control")
    (base / "packs").mkdir()
    for family in FAMILIES:
        source = families.write_family(base / family, family, vae=families.autoencoder_tiny())
        net = write_controlnet(source / "unet", base / f"{family}-net")
        plain = ("--precision", "fp32", "--no-evaluate")
        run(source, "-o", base / "packs" / family, *plain, "--with-control")
        run(net, "-o", base / "packs" / net.name, "--precision", "fp32")
    return base


@pytest.fixture
def bench(built: Path, tmp_path: Path) -> Any:
    bench = Workbench([built / "packs"], {}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def hint_of(family: str) -> np.ndarray:
    """(1, 3, h, w) float32, 0 to 1."""
    side = families.side(family)
    return np.random.default_rng(2).random((1, 3, side, side), np.float32)


def ours(bench: Workbench, family: str, nodes: list[dict[str, Any]]) -> np.ndarray:
    """The last latents, led by nodes ControlNetApplyAdvanced one after the other."""
    pack = bench.pack_for(family)
    stages, manifest = bench.stages(pack), pack.manifest
    sides: tuple[Any, ...] = stages.encode_prompts("a red apple", "", GUIDANCE)
    (net,) = NODES["ControlNetLoader"].run(bench, control_net_name=f"{family}-net.safetensors")
    image = hint_of(family) * 2 - 1
    for inputs in nodes:
        told = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **inputs}
        sides = NODES["ControlNetApplyAdvanced"].run(
            bench, positive=sides[0], negative=sides[1], control_net=net, image=image, **told
        )
    scheduler = make_scheduler("euler", noise_schedule(manifest), manifest.prediction_type, STEPS)
    rng = NoiseSource(SEED)
    side = families.side(family) // 8
    latents = rng.normal((1, 4, side, side)) * np.float32(scheduler.init_noise_sigma)
    *_, last = stages.denoise(scheduler, latents, *sides, GUIDANCE, rng)
    return last.latents


def theirs(built: Path, bench: Workbench, family: str, **asked: Any) -> np.ndarray:
    source = open_source(built / family)
    net = ControlNetModel.from_pretrained(built / f"{family}-net").eval()
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    parts = {"vae": weights.load_vae(source), "unet": weights.load_unet(source), "scheduler": scheduler}
    stages = bench.stages(bench.pack_for(family))
    wanted, unwanted = (side[0] for side in stages.encode_prompts("a red apple", "", GUIDANCE))
    told = {"prompt_embeds": wanted.hidden, "negative_prompt_embeds": unwanted.hidden}
    if families.is_sdxl(family):
        none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        pipeline = StableDiffusionXLControlNetPipeline(**parts, **none, controlnet=net, add_watermarker=False)
        told |= {"pooled_prompt_embeds": wanted.pooled, "negative_pooled_prompt_embeds": unwanted.pooled}
    else:
        checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionControlNetPipeline(
            **parts, **checker, controlnet=net, text_encoder=None, tokenizer=None
        )
    pipeline.set_progress_bar_config(disable=True)
    size = {"width": families.side(family), "height": families.side(family)}
    return pipeline(
        **{name: torch.from_numpy(value) for name, value in told.items()},
        **size,
        **asked,
        image=torch.from_numpy(hint_of(family)),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images.numpy()


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_diffusers_own(built: Path, bench: Workbench, family: str) -> None:
    wanted = theirs(built, bench, family, controlnet_conditioning_scale=0.7)
    assert distance(ours(bench, family, [{"strength": 0.7}]), wanted) < NEAR
    assert distance(ours(bench, family, [{"strength": 0.3}, {"strength": 0.4}]), wanted) < NEAR
    assert distance(ours(bench, family, []), wanted) > 0.05, "it must matter"


@pytest.mark.parametrize("family", FAMILIES)
def test_only_a_part_of_the_run_is_led(built: Path, bench: Workbench, family: str) -> None:
    early = theirs(built, bench, family, control_guidance_end=0.5)
    late = theirs(built, bench, family, control_guidance_start=0.5)
    assert distance(ours(bench, family, [{"end_percent": 0.5}]), early) < NEAR
    assert distance(ours(bench, family, [{"start_percent": 0.5}]), late) < NEAR
    assert distance(early, late) > 0.01


def test_both_denoisers_share_their_weights(built: Path) -> None:
    pack = Pack.open(built / "packs" / "sd1")
    pack.verify()
    graphs = pack.manifest.graphs
    data = [{p for p in graphs[role].files if p.endswith(".data")} for role in ("unet", "unet_control")]
    assert data[0] == data[1] == {"unet/model.onnx.data"}
    assert Component.open(built / "packs" / "sd1-net").manifest.words_width == 64


def test_an_int8_denoiser_listens_too(built: Path, tmp_path: Path) -> None:
    """With nothing said it is the INT8 graph bit for bit; with something, near the float one."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a blue cat\n", "utf-8")
    run(
        built / "sd1", "-o", tmp_path / "int8", "--with-control", "--no-evaluate", "--no-sensitivity",
        "--steps", 2, "--calibration-prompts", prompts, "--calibration", "minmax",
    )  # fmt: skip
    quantized, whole = Pack.open(tmp_path / "int8"), Pack.open(built / "packs" / "sd1")
    assert quantized.manifest.graphs["unet_control"].precision == "int8"
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        "sample": rng.standard_normal((1, 4, 16, 16), np.float32),
        "timestep": np.array([501.0], np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 77, 64), np.float32),
    }
    net = onnxruntime.InferenceSession(str(Component.open(built / "packs" / "sd1-net").graph("controlnet")))
    told = net.run(None, {**feeds, "controlnet_cond": hint_of("sd1")})
    led = dict(zip([o.name for o in net.get_outputs()], told, strict=True))
    silent = {name: np.zeros_like(value) for name, value in led.items()}

    def answer(pack: Pack, role: str, more: dict[str, Any]) -> np.ndarray:
        return onnxruntime.InferenceSession(str(pack.graph(role))).run(None, {**feeds, **more})[0]

    assert np.array_equal(answer(quantized, "unet_control", silent), answer(quantized, "unet", {}))
    wanted = answer(whole, "unet_control", led)
    drift = distance(answer(quantized, "unet_control", led), wanted)
    usual = distance(answer(quantized, "unet", {}), answer(whole, "unet", {}))
    print(f"relative drift of INT8: {drift:.3f} led, {usual:.3f} alone")
    assert drift < 1.5 * usual
    assert drift < 0.3 * distance(answer(whole, "unet", {}), wanted), "what is said must be heard"


def refusal(folder: Path) -> str:
    done = CliRunner().invoke(cli, [str(folder), "-o", str(folder.parent / "out")])
    assert isinstance(done.exception, SourceError), done.output
    return str(done.exception)


def test_folders_that_hold_something_else_are_refused(built: Path, tmp_path: Path) -> None:
    assert find_controlnet(built / "sd1") is None
    assert find_controlnet(built / "sd1" / "unet") is None
    text = (built / "sd1-net" / "config.json").read_text("utf-8")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text(text, "utf-8")
    assert "no diffusion_pytorch_model.safetensors" in refusal(tmp_path / "net")
    save_file(
        load_file(built / "sd1-net" / "diffusion_pytorch_model.safetensors"),
        tmp_path / "net" / "diffusion_pytorch_model.safetensors",
    )
    changed = text.replace('"global_pool_conditions": false', '"global_pool_conditions": true')
    assert changed != text
    (tmp_path / "net" / "config.json").write_text(changed, "utf-8")
    assert "global_pool_conditions is not read" in refusal(tmp_path / "net")


def test_a_graph_without_skip_connections_cannot_be_led(built: Path) -> None:
    with pytest.raises(ControlError, match="no skip connections"):
        add_control(Pack.open(built / "packs" / "sd1").graph("vae_decoder"))
