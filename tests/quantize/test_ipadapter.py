"""IP-Adapters: packs of them and of image encoders, denoisers that look, and diffusers' own latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from edgegen.component import Component
from edgegen.diffusion.pixels import to_model_input
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.schedulers import make_scheduler
from edgegen.engine.imageprompt import ImagePrompt, silent_tokens
from edgegen.engine.nodes import NODES
from edgegen.engine.request import noise_schedule
from edgegen.engine.stages import Stages
from edgegen.engine.workbench import Workbench
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from quantize import weights
from quantize.cli import cli
from quantize.clipvision import find_clip_vision
from quantize.imageprompt import ImagePromptError, add_image_prompt, transformer_depths
from quantize.ipadapters import find_ip_adapter
from quantize.refusal import SourceError
from quantize.shown import shown_by
from quantize.source import open_source
from tests.ipadapters import layout, write_adapter, write_encoder

FAMILIES, KINDS = ("sd1", "sdxl"), ("basic", "plus")
NEAR = 1e-3
SEED, GUIDANCE, STEPS, WEIGHT = 5, 3.0, 4, 0.7
BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def run(*args: object) -> None:
    cli.main([*map(str, args), "--precision", "fp32", "--quiet"], standalone_mode=False)


def channels_of(pack: Path) -> tuple[int, ...]:
    return tuple(layer.channels for layer in Pack.open(pack).manifest.ip_layers or ())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<family>`, `eyes` and `<family>-<kind>.safetensors`; in `packs` what is made of them."""
    base = tmp_path_factory.mktemp("ip")
    packs = base / "packs"
    packs.mkdir()
    run(write_encoder(base / "eyes"), "-o", packs / "eyes")
    for family in FAMILIES:
        source = families.write_family(base / family, family, vae=families.autoencoder_tiny())
        run(source, "-o", packs / family, "--no-evaluate", "--with-ip-adapter")
        width, channels = open_source(source).words_width, channels_of(packs / family)
        for kind in KINDS:
            file = write_adapter(base / f"{family}-{kind}.safetensors", layout(kind, width, channels))
            run(file, "-o", packs / file.stem)
    return base


@pytest.fixture
def bench(built: Path, tmp_path: Path) -> Any:
    bench = Workbench([built / "packs"], {}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def picture() -> Image.Image:
    """Twice as wide as high: cropped, and of a size that is rounded nowhere."""
    small = np.random.default_rng(3).integers(0, 256, (14, 28, 3), np.uint8)
    return Image.fromarray(small).resize((600, 300), Image.Resampling.BICUBIC)


def looking(bench: Workbench, family: str, kind: str, pack: str = "", **inputs: Any) -> Stages:
    (model,) = NODES["CheckpointLoaderSimple"].run(bench, ckpt_name=pack or family)[:1]
    (adapter,) = NODES["IPAdapterModelLoader"].run(bench, ipadapter_file=f"{family}-{kind}.safetensors")
    (eyes,) = NODES["CLIPVisionLoader"].run(bench, clip_name="eyes.safetensors")
    usual = {
        "weight": WEIGHT, "weight_type": "linear", "combine_embeds": "concat", "start_at": 0.0, "end_at": 1.0,
        "embeds_scaling": "V only", "image": to_model_input(np.asarray(picture())),
    }  # fmt: skip
    links = {"model": model, "ipadapter": adapter, "clip_vision": eyes}
    return NODES["IPAdapterAdvanced"].run(bench, **{**links, **usual, **inputs})[0]


def ours(stages: Stages, family: str) -> np.ndarray:
    """The last latents."""
    manifest = stages.pack.manifest
    sides = stages.encode_prompts("a red apple", "", both_passes=True)
    scheduler = make_scheduler("euler", noise_schedule(manifest), manifest.prediction_type, STEPS)
    rng = NoiseSource(SEED)
    side = families.side(family) // 8
    latents = rng.normal((1, 4, side, side)) * np.float32(scheduler.init_noise_sigma)
    *_, last = stages.denoise(scheduler, latents, *sides, GUIDANCE, rng)
    return last.latents


def theirs(
    built: Path, bench: Workbench, family: str, kind: str, masks: list[np.ndarray] | None = None
) -> np.ndarray:
    """The last latents; with two masks, of both kinds together, the second at half its weight."""
    source = open_source(built / family)
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    parts = {"vae": weights.load_vae(source), "unet": weights.load_unet(source), "scheduler": scheduler}
    stages = bench.stages(bench.pack_for(family))
    wanted, unwanted = (side[0] for side in stages.encode_prompts("a red apple", "", both_passes=True))
    told = {"prompt_embeds": wanted.hidden, "negative_prompt_embeds": unwanted.hidden}
    none: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
    if families.is_sdxl(family):
        none |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
        pipeline = StableDiffusionXLPipeline(**parts, **none)
        told |= {"pooled_prompt_embeds": wanted.pooled, "negative_pooled_prompt_embeds": unwanted.pooled}
    else:
        none |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **none)
    files = [f"{family}-{one}.safetensors" for one in (KINDS if masks else [kind])]
    pipeline.load_ip_adapter(str(built), [""] * len(files), files, image_encoder_folder="./eyes")
    pipeline.set_ip_adapter_scale([WEIGHT, WEIGHT / 2][: len(files)])
    pipeline.set_progress_bar_config(disable=True)
    size = {"width": families.side(family), "height": families.side(family)}
    return pipeline(
        **{name: torch.from_numpy(value) for name, value in told.items()},
        **size,
        **(two_shown_to(pipeline, masks) if masks else shown_to(pipeline, kind)),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images.numpy()


def their_embeds(pipeline: Any, kind: str) -> torch.Tensor:
    """(2, 1, ...): what each side of guidance is told, as this extension has it."""
    pictures = [Image.new("RGB", (224, 224)), picture()]
    pixels = pipeline.feature_extractor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        seen = pipeline.image_encoder(pixels, output_hidden_states=True)
    if kind == "plus":
        return seen.hidden_states[-2][:, None]
    return torch.stack([torch.zeros_like(seen.image_embeds[1]), seen.image_embeds[1]])[:, None]


def shown_to(pipeline: Any, kind: str) -> dict[str, Any]:
    """The plus kind's unwanted picture is black here, as in ComfyUI's extension; grey in diffusers."""
    if kind == "basic":
        return {"ip_adapter_image": picture()}
    pictures = [Image.new("RGB", (224, 224)), picture()]
    pixels = pipeline.feature_extractor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = pipeline.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
    return {"ip_adapter_image_embeds": [states[:, None]]}


def two_shown_to(pipeline: Any, masks: list[np.ndarray]) -> dict[str, Any]:
    told = {"ip_adapter_masks": [torch.from_numpy(mask)[None] for mask in masks]}
    embeds = [their_embeds(pipeline, kind) for kind in KINDS]
    return {"ip_adapter_image_embeds": embeds, "cross_attention_kwargs": told}


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_diffusers_own(built: Path, bench: Workbench, family: str, kind: str) -> None:
    wanted = theirs(built, bench, family, kind)
    far = distance(ours(looking(bench, family, kind), family), wanted)
    print(f"{family} {kind}: relative difference {far:.1e}")
    assert far < NEAR
    plain = ours(bench.stages(bench.pack_for(family)), family)
    assert distance(plain, wanted) > 0.05, "it must matter"


def masks_of(is_whole: bool) -> list[np.ndarray]:
    """(1, 64, 64) for each adapter: everywhere, or a half and a gradient."""
    if is_whole:
        return [np.ones((1, 64, 64), np.float32)] * 2
    half, gradient = np.zeros((2, 1, 64, 64), np.float32)
    half[:, :, 32:] = 1
    gradient[:] = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    return [half, gradient]


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_adapters_and_their_masks_are_diffusers_own(
    built: Path, bench: Workbench, family: str, is_whole: bool
) -> None:
    masks = masks_of(is_whole)
    wanted = theirs(built, bench, family, "", masks)
    first = looking(bench, family, KINDS[0], attn_mask=masks[0])
    both = looking(bench, family, KINDS[1], model=first, attn_mask=masks[1], weight=WEIGHT / 2)
    far = distance(ours(both, family), wanted)
    print(f"{family}, two adapters, {'no' if is_whole else 'with'} masks: relative difference {far:.1e}")
    assert far < NEAR
    assert distance(ours(first, family), wanted) > 0.01, "the second must matter"
    if is_whole:
        unmasked = looking(bench, family, KINDS[1], model=looking(bench, family, KINDS[0]), weight=WEIGHT / 2)
        assert np.array_equal(ours(unmasked, family), ours(both, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_that_says_nothing_is_the_plain_denoiser(bench: Workbench, family: str) -> None:
    plain = ours(bench.stages(bench.pack_for(family)), family)
    assert np.array_equal(ours(looking(bench, family, "basic", weight=0.0), family), plain)
    assert np.array_equal(ours(looking(bench, family, "basic", end_at=0.0), family), plain)
    early = ours(looking(bench, family, "basic", end_at=0.5), family)
    whole = ours(looking(bench, family, "basic"), family)
    assert distance(early, whole) > 1e-3
    assert distance(early, plain) > 1e-3


def test_all_denoisers_share_their_weights(built: Path) -> None:
    pack = Pack.open(built / "packs" / "sd1")
    pack.verify()
    graphs = pack.manifest.graphs
    data = [{p for p in graphs[role].files if p.endswith(".data")} for role in ("unet", "unet_ip")]
    assert data[0] == data[1] == {"unet/model.onnx.data"}
    layers = pack.manifest.ip_layers or []
    assert [layer.part for layer in layers] == ["down"] * 3 + ["up"] * 6 + ["mid"]
    assert [layer.place for layer in layers] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]
    assert [layer.level for layer in layers] == [0, 1, 2, 2, 2, 1, 1, 0, 0, 3]
    adapter = Component.open(built / "packs" / "sd1-plus").manifest
    assert (adapter.reads, adapter.tokens, adapter.words_width) == ("hidden_states", 16, 64)


def test_int8_ranges_see_the_adapters_tokens(built: Path, tmp_path: Path) -> None:
    """With nothing shown it is the plain INT8 graph bit for bit. Shown a picture it drifts 1.4 to 1.7 times
    as far as alone; of ranges that saw no tokens, 2.6 to 2.9 times."""
    (tmp_path / "prompts.txt").write_text("a blue cat\na red apple\n", "utf-8")
    (tmp_path / "packs").mkdir()
    args = [built / "sd1", "-o", tmp_path / "packs" / "int8", "--name", "int8", "--no-evaluate", "--quiet",
            "--no-sensitivity", "--steps", 4, "--calibration-prompts", tmp_path / "prompts.txt",
            "--ip-adapter", built / "sd1-plus.safetensors"]  # fmt: skip
    cli.main([str(arg) for arg in args], standalone_mode=False)
    bench = Workbench([built / "packs", tmp_path / "packs"], {}, tmp_path, LimitSettings(), "cpu", 1)
    pack = bench.pack_for("int8")
    assert pack.manifest.graphs["unet_ip"].precision == "int8"
    plain = bench.stages(pack)
    silent = silent_tokens(pack.manifest.ip_layers or ())
    alone = ours(plain, "sd1")
    assert np.array_equal(ours(plain.with_image(ImagePrompt(silent, silent)), "sd1"), alone)
    usual = distance(alone, ours(bench.stages(bench.pack_for("sd1")), "sd1"))
    shown = ours(looking(bench, "sd1", "plus", weight=1.0), "sd1")
    drift = distance(ours(looking(bench, "sd1", "plus", "int8", weight=1.0), "sd1"), shown)
    bench.close()
    print(f"relative drift of INT8: {drift:.3f} shown a picture, {usual:.3f} alone")
    assert drift < 2 * usual


def test_adapters_that_ranges_cannot_be_recorded_with_are_refused(built: Path) -> None:
    layers = Pack.open(built / "packs" / "sd1").manifest.ip_layers or ()
    with pytest.raises(SourceError, match="for another denoiser"):
        shown_by(built / "sdxl-basic.safetensors", layers, seed=0)
    with pytest.raises(SourceError, match="is no IP-Adapter"):
        shown_by(built / "eyes" / "model.safetensors", layers, seed=0)


def test_places_of_the_published_families() -> None:
    sd1 = transformer_depths({"layers_per_block": 2}).layers()
    assert len(sd1) == 16
    assert sd1[6] == (6, "mid")
    assert transformer_depths({"layers_per_block": 2}).levels == (
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        *[2] * 3,
        *[1] * 3,
        *[0] * 3,
    )
    xl = {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
    }
    found = transformer_depths(xl).layers()
    assert len(found) == 70
    assert {place for place, _ in found} == set(range(11))
    assert transformer_depths(xl).levels == (1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1)
    assert [sum(place == p for place, _ in found) for p in (0, 2, 4, 5, 10)] == [2, 10, 10, 10, 2]


def test_a_graph_that_is_no_denoiser_cannot_look(built: Path) -> None:
    with pytest.raises(ImagePromptError, match="has 0 cross attentions of one node, its config tells of 16"):
        add_image_prompt(Pack.open(built / "packs" / "sd1").graph("vae_decoder"), transformer_depths({}))


def refusal(path: Path) -> str:
    done = CliRunner().invoke(cli, [str(path), "-o", str(path.parent / "out")])
    assert isinstance(done.exception, SourceError), done.output
    return str(done.exception)


def test_adapters_of_other_kinds_are_refused(built: Path, tmp_path: Path) -> None:
    known = load_file(built / "sd1-plus.safetensors")
    file = tmp_path / "adapter.safetensors"
    save_file({**known, "ip_adapter.0.to_q_lora.down.weight": torch.zeros(1)}, file)
    assert "a FaceID adapter" in refusal(file)
    save_file({**known, "image_proj.proj.3.weight": torch.zeros(1)}, file)
    assert "a full-face adapter" in refusal(file)
    save_file({name: w for name, w in known.items() if name != "image_proj.proj_in.weight"}, file)
    assert "lacks 'image_proj.proj_in.weight'" in refusal(file)
    save_file({**known, "ip_adapter.3.to_v_ip.weight": torch.zeros(3, 3)}, file)
    assert "ip_adapter.3.to_v_ip.weight is (3, 3)" in refusal(file)
    save_file({**known, "image_proj.more": torch.zeros(3, 3)}, file)
    assert "image_proj.more is not known" in refusal(file)
    assert find_ip_adapter(built / "eyes" / "model.safetensors") is None


def test_image_encoders_of_other_kinds_are_refused(built: Path, tmp_path: Path) -> None:
    assert find_clip_vision(built / "sd1") is None
    text = (built / "eyes" / "config.json").read_text("utf-8")
    (tmp_path / "eyes").mkdir()
    (tmp_path / "eyes" / "config.json").write_text(text, "utf-8")
    assert "no file *.safetensors" in refusal(tmp_path / "eyes")
    (tmp_path / "eyes" / "config.json").write_text(text.replace("224", "-1"), "utf-8")
    assert "image_size is -1; it must be one number from 1 to 1024" in refusal(tmp_path / "eyes")
