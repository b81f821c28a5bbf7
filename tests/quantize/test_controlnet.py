"""ControlNets: packs of them, denoisers that listen, and the latents of diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
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
from quantize import controlint8, weights
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
    sides: tuple[Any, ...] = stages.encode_prompts("a red apple", "", both_passes=True)
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
    wanted, unwanted = (side[0] for side in stages.encode_prompts("a red apple", "", both_passes=True))
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


def test_single_files_are_refused_with_the_way_out(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "control_v11.safetensors"
    save_file({"control_model.input_hint_block.0.weight": torch.zeros(1)}, file)
    assert "ControlNetModel.from_single_file" in refusal(file)
    save_file(load_file(built / "sd1-net" / "diffusion_pytorch_model.safetensors"), file)
    assert "give the folder that holds both" in refusal(file)


def test_a_graph_without_skip_connections_cannot_be_led(built: Path) -> None:
    with pytest.raises(ControlError, match="no skip connections"):
        add_control(Pack.open(built / "packs" / "sd1").graph("vae_decoder"))


@pytest.fixture(scope="module")
def base(built: Path) -> Path:
    """The small denoiser with short runs."""
    folder = Path(shutil.copytree(built / "packs" / "sd1", built / "short"))
    data = json.loads((folder / "pack.json").read_text("utf-8"))
    data["defaults"]["steps"] = 5
    (folder / "pack.json").write_text(json.dumps(data), "utf-8")
    return folder


def build_int8(built: Path, base: Path, out: Path) -> Component:
    words = out.with_suffix(".txt")
    words.write_text("a red apple\na blue cat\na green hat\n", "utf-8")
    prompts = ("--calibration-prompts", words, "--evaluation-prompts", words)
    run(built / "sd1-net", "-o", out, "--precision", "int8", "--base", base, *prompts)
    return Component.open(out)


@pytest.fixture(scope="module")
def net8(built: Path, base: Path) -> Component:
    return build_int8(built, base, built / "net8")


def test_int8_is_judged_by_the_pictures_it_leads_to(net8: Component) -> None:
    judged = net8.manifest.evaluation
    assert judged["pictures"]["ssim"] >= 0.95
    assert judged["pictures"]["pictures"] == 3
    assert judged["graphs"]["controlnet"]["sqnr_db"] > 25
    assert (net8.manifest.graphs["controlnet"].precision, judged["base"]) == ("int8", "sd1")
    assert judged["graphs"]["controlnet"]["layer_sqnr_db"]


def test_the_int8_graph_is_small_and_gives_what_it_should(built: Path, net8: Component) -> None:
    graph = onnx.load(net8.graph("controlnet"), load_external_data=False).graph
    assert "QuantizeLinear" in [node.op_type for node in graph.node]
    plain = onnx.load(
        built / "packs" / "sd1-net" / "controlnet" / "model.onnx", load_external_data=False
    ).graph
    assert [o.name for o in graph.output] == [o.name for o in plain.output]
    float_bytes, int8_bytes = (
        sum(f.stat().st_size for f in (folder / "controlnet").iterdir())
        for folder in (built / "packs" / "sd1-net", net8.folder)
    )
    assert int8_bytes < 0.5 * float_bytes


def test_the_int8_net_leads_the_device_to_nearly_the_same(
    built: Path, net8: Component, tmp_path: Path
) -> None:
    """What it adds, not the picture as such: that hardly differs without it."""
    packs = tmp_path / "packs"
    shutil.copytree(built / "packs" / "sd1", packs / "sd1")
    folder = Path(shutil.copytree(net8.folder, packs / "sd1-net"))
    text = (folder / "pack.json").read_text("utf-8")
    (folder / "pack.json").write_text(json.dumps(json.loads(text) | {"name": "sd1-net"}), "utf-8")
    with closing(Workbench([packs], {}, tmp_path, LimitSettings(), "cpu", 1)) as bench:
        got, unled = (ours(bench, "sd1", [{"strength": strength}]) for strength in (1.0, 0.0))
    with closing(Workbench([built / "packs"], {}, tmp_path, LimitSettings(), "cpu", 1)) as bench:
        wanted = ours(bench, "sd1", [{}])
    assert 0 < np.square(got - wanted).sum() < 0.05 * np.square(wanted - unled).sum()


def test_more_layers_stay_float_until_the_pictures_are_right(
    built: Path, base: Path, net8: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlint8, "LEAST_SSIM", 1.01)
    with pytest.raises(SourceError, match=r"SSIM .* with \d+ layers float, below 1.01: take fp16") as refused:
        build_int8(built, base, tmp_path / "never")
    kept = net8.manifest.evaluation["graphs"]["controlnet"]["float_layers"]
    assert int(str(refused.value).split(" with ")[1].split()[0]) > len(kept)
    assert not (tmp_path / "never").exists()


def test_int8_wants_a_denoiser_that_it_can_lead(built: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="needs --base PACK"):
        run(built / "sd1-net", "-o", tmp_path / "x", "--precision", "int8")
    with pytest.raises(SourceError, match="of another family"):
        run(
            built / "sdxl-net", "-o", tmp_path / "x", "--precision", "int8", "--base", built / "packs" / "sd1"
        )
    with pytest.raises(SourceError, match="build it with --with-control"):
        tiny = Path(__file__).parent.parent / "packs" / "tiny"
        run(built / "sd1-net", "-o", tmp_path / "x", "--precision", "int8", "--base", tiny)
