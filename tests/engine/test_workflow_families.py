"""ComfyUI's nodes for Stable Diffusion XL and for sampling taken apart, on real packs and sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.diffusion.schedules import alphas_cumprod, sigmas_of
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.nodes import NODES, Latents, check_for, packs_of
from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
from edgegen.engine.request import noise_schedule
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from tests.support import assert_cut_of

PACKS = Path(__file__).parent.parent / "packs"
FILES = {"sd_xl_base_1.0.safetensors": "tiny-xl", "v1-5.safetensors": "tiny", "taesd": "tiny-lcm"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    bench = Workbench([PACKS, PACKS / "families"], FILES, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(checkpoint: str = "sd_xl_base_1.0.safetensors") -> dict[str, Any]:
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    how = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "3": node("KSampler", **how, **links),
        "4": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a red apple", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def sdxl_words(**changes: Any) -> dict[str, Any]:
    sizes = {"width": 64, "height": 64, "crop_w": 0, "crop_h": 0, "target_width": 64, "target_height": 64}
    texts = {"text_g": "a red apple", "text_l": "a red apple"}
    return node("CLIPTextEncodeSDXL", **{**sizes, **texts, "clip": ["4", 1], **changes})


def custom(data: dict[str, Any], levels: dict[str, Any], sampler: str = "euler") -> dict[str, Any]:
    """The graph with its sampler taken apart."""
    old = data["3"]["inputs"]
    kept = {name: old[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
    data["10"] = node("KSamplerSelect", sampler_name=sampler)
    data["11"] = levels
    data["3"] = node(
        "SamplerCustom", add_noise=True, noise_seed=7, sampler=["10", 0], sigmas=["11", 0], **kept
    )
    return data


def pixels(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    items = list(Executor(bench).run(check_for(bench, workflow_from(data))))
    (found,) = [item for item in items if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def refusal(bench: Workbench, data: dict[str, Any]) -> BadWorkflow:
    with pytest.raises(BadWorkflow) as caught:
        check_for(bench, workflow_from(data))
    return caught.value


def test_sdxl_text_to_image_is_what_generate_makes_but_for_its_rounding(bench: Workbench) -> None:
    settings = GenerationSettings("a red apple", "a dog", 7, 3, 3.0, 64, 64, "euler", "normal")
    with TextToImage(Pack.open(PACKS / "families" / "tiny-xl"), "cpu", 1) as engine:
        *_, picture = engine.generate(settings)
    assert isinstance(picture, Picture)
    assert_cut_of(pixels(bench, graph())[0], picture.pixels)


def test_sizes_and_texts_of_sdxls_own_node_count(bench: Workbench) -> None:
    plain = pixels(bench, graph())
    found = []
    for changes in ({}, {"width": 4096}, {"crop_h": 512}, {"text_g": "a dog"}, {"text_l": "a dog"}):
        data = graph() | {"6": sdxl_words(**changes)}
        found.append(pixels(bench, data))
    assert np.array_equal(found[0], plain)
    assert len({picture.tobytes() for picture in found}) == 5


def test_sizes_are_told_in_the_order_of_training(bench: Workbench) -> None:
    stages = bench.stages(bench.pack_for("tiny-xl"))
    inputs = {"width": 1, "height": 2, "crop_w": 3, "crop_h": 4, "target_width": 5, "target_height": 6}
    ((told,),) = NODES["CLIPTextEncodeSDXL"].run(bench, clip=stages, text_g="a", text_l="b", **inputs)
    assert told.time_ids.tolist() == [[2, 1, 4, 3, 6, 5]]


def test_sdxls_words_on_a_pack_with_one_encoder_are_refused_by_node(bench: Workbench) -> None:
    found = refusal(bench, graph("v1-5.safetensors") | {"6": sdxl_words()})
    assert "node 6 (CLIPTextEncodeSDXL) clip: pack tiny has one text encoder only" in str(found)
    stages = bench.stages(bench.pack_for("tiny"))
    with pytest.raises(BadRequest, match="one text encoder only"):
        NODES["CLIPTextEncodeSDXL"].run(bench, clip=stages, text_g="a", text_l="b")


def test_mixed_conditionings_keep_summary_and_sizes(bench: Workbench) -> None:
    data = graph() | {"6": sdxl_words(crop_w=32)}
    plain = pixels(bench, data)
    to = {"conditioning_to": ["6", 0], "conditioning_from": ["7", 0]}
    data["20"] = node("ConditioningAverage", **to, conditioning_to_strength=1.0)
    data["3"]["inputs"]["positive"] = ["20", 0]
    assert np.array_equal(pixels(bench, data), plain)
    data["20"] = node("ConditioningZeroOut", conditioning=["6", 0])
    assert not np.array_equal(pixels(bench, data), plain)


@pytest.mark.parametrize(
    ("checkpoint", "layer", "other"),
    [("sd_xl_base_1.0.safetensors", -2, -1), ("v1-5.safetensors", -1, None)],
)
def test_the_layer_that_a_pack_holds_may_be_asked_for(
    bench: Workbench, checkpoint: str, layer: int, other: int | None
) -> None:
    data = graph(checkpoint)
    plain = pixels(bench, data)
    data["2"] = node("CLIPSetLastLayer", clip=["4", 1], stop_at_clip_layer=layer)
    data["6"]["inputs"]["clip"] = data["7"]["inputs"]["clip"] = ["2", 0]
    assert np.array_equal(pixels(bench, data), plain)
    if other is not None:  # a graph that ends where SDXL reads has no layer behind that
        data["2"]["inputs"]["stop_at_clip_layer"] = other
        assert f"{other} cannot be had" in str(refusal(bench, data))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "dpm_2"])
def test_taken_apart_it_samples_as_the_whole_does(bench: Workbench, name: str) -> None:
    data = graph("v1-5.safetensors")
    data["3"]["inputs"]["sampler_name"] = "euler" if name == "dpm_2" else name
    whole = pixels(bench, data)
    levels = node("BasicScheduler", model=["4", 0], scheduler="normal", steps=3, denoise=1.0)
    parts = pixels(bench, custom(data, levels, name))
    assert np.array_equal(parts, whole) == (name != "dpm_2")


def test_levels_of_ones_own(bench: Workbench) -> None:
    (karras,) = NODES["KarrasScheduler"].run(bench, steps=3, sigma_max=16.0, sigma_min=1.0, rho=2.0)
    assert np.allclose(karras, [16, 6.25, 1, 0])
    (even,) = NODES["ExponentialScheduler"].run(bench, steps=3, sigma_max=16.0, sigma_min=1.0)
    assert np.allclose(even, [16, 4, 1, 0])
    for class_type, more in {"KarrasScheduler": {"rho": 7.0}, "ExponentialScheduler": {}}.items():
        levels = node(class_type, steps=3, sigma_max=14.614642, sigma_min=0.0291675, **more)
        assert pixels(bench, custom(graph(), levels)).shape == (1, 64, 64, 3)
    levels["inputs"]["sigma_min"] = 20.0
    assert "sigma_max: 14.6146 must be above sigma_min (20)" in str(refusal(bench, custom(graph(), levels)))
    zero = node("KarrasScheduler", steps=101, sigma_max=14.0, sigma_min=0.03, rho=0)
    found = str(refusal(bench, custom(graph(), zero)))
    assert "rho: 0 is not allowed" in found
    assert "steps: 101 is not allowed here" in found


def test_turbos_levels_are_those_of_its_ten_timesteps(bench: Workbench) -> None:
    stages = bench.stages(bench.pack_for("tiny-xl"))
    trained = sigmas_of(alphas_cumprod(noise_schedule(stages.pack.manifest)))
    turbo = NODES["SDTurboScheduler"]
    (one,) = turbo.run(bench, model=stages, steps=1, denoise=1.0)
    (half,) = turbo.run(bench, model=stages, steps=2, denoise=0.5)
    (none,) = turbo.run(bench, model=stages, steps=2, denoise=0.0)
    assert np.array_equal(one, [trained[999], 0])
    assert np.array_equal(half, [trained[499], trained[399], 0])
    assert np.array_equal(none, [0])
    levels = node("SDTurboScheduler", model=["4", 0], steps=1, denoise=1.0)
    data = custom(graph(), levels, "euler_ancestral")
    data["3"]["inputs"]["cfg"] = 1.0
    pixels(bench, data)
    assert bench.stages(bench.pack_for("tiny-xl")).sessions.get("unet").runs == 1
    del data["11"]["inputs"]["denoise"]  # as older files have it
    pixels(bench, data)
    assert bench.stages(bench.pack_for("tiny-xl")).sessions.get("unet").runs == 2
    data["11"]["inputs"]["denoise"] = 0.0  # nothing to do: the latents as they came
    pixels(bench, data)
    assert bench.stages(bench.pack_for("tiny-xl")).sessions.get("unet").runs == 2


def test_the_second_output_is_what_the_last_step_saw(bench: Workbench) -> None:
    levels = node("KarrasScheduler", steps=2, sigma_max=14.0, sigma_min=0.5, rho=7.0)
    data = custom(graph("v1-5.safetensors"), levels)
    whole = pixels(bench, data)
    data["8"]["inputs"]["samples"] = ["3", 1]
    assert np.array_equal(pixels(bench, data), whole)  # the last step of Euler goes all the way there
    data["3"]["inputs"]["add_noise"] = False
    assert not np.array_equal(pixels(bench, data), whole)
    data["3"]["inputs"]["add_noise"] = "yes"
    assert "add_noise: 'yes' must be true or false" in str(refusal(bench, data))


def test_another_packs_autoencoder_by_a_files_name(bench: Workbench) -> None:
    data = graph("v1-5.safetensors")
    data["12"] = node("VAELoader", vae_name="taesd")
    data["8"]["inputs"]["vae"] = ["12", 0]
    checked = check_for(bench, workflow_from(data))
    assert {name: pack.name for name, pack in packs_of(bench, checked).items()} == {
        "v1-5.safetensors": "tiny",
        "taesd": "tiny-lcm",
    }
    assert not np.array_equal(pixels(bench, data), pixels(bench, graph("v1-5.safetensors")))
    assert bench.stages(bench.pack_for("taesd")).sessions.loaded == ["vae_decoder"]
    data["12"]["inputs"]["vae_name"] = "kl-f8.ckpt"
    assert "node 12 (VAELoader) vae_name: stands for no pack here" in str(refusal(bench, data))


def test_latents_of_another_scale_are_rescaled_for_the_decoder(bench: Workbench) -> None:
    stages = bench.stages(bench.pack_for("tiny-xl"))
    samples = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    scale = stages.pack.manifest.latent_scale
    plain, doubled, same = (
        NODES["VAEDecode"].run(bench, samples=latents, vae=stages)[0]
        for latents in (
            Latents(samples, 8, scale),
            Latents(samples, 8, 2 * scale),
            Latents(samples * 2, 8, scale),
        )
    )
    assert np.array_equal(doubled, same)
    assert not np.array_equal(plain, same)


def test_mixed_latents_are_of_one_scale_whichever_is_empty(bench: Workbench) -> None:
    ones = np.ones((1, 4, 8, 8), np.float32)
    empty, one, other = Latents(ones * 0), Latents(ones, 8, 0.5), Latents(ones, 8, 0.25)
    found = [NODES["LatentAdd"].run(bench, *pair)[0] for pair in ((empty, one), (one, empty), (one, other))]
    assert [(latents.scale, float(latents.samples[0, 0, 0, 0])) for latents in found] == [
        (0.5, 1.0), (0.5, 1.0), (0.5, 1.5),
    ]  # fmt: skip
