"""Painting over a part of a picture and speaking of a part of it, on the tiny pack with an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgegen.diffusion.rng import NoiseSource
from edgegen.engine.areas import fading_weight, with_counterparts
from edgegen.engine.conditioning import Area, Encoding
from edgegen.engine.executor import Executor, NodePictures, NodeProgress, content_keys
from edgegen.engine.nodes import NODES, Latents, check_for
from edgegen.engine.workbench import Workbench
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(**sampler: Any) -> dict[str, Any]:
    """The example painted over where `mask.png` is red."""
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["12", 0]}
    how = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "1": node("LoadImage", image="example.png"),
        "2": node("LoadImageMask", image="mask.png", channel="red"),
        "3": node("KSampler", **{**how, **links, **sampler}),
        "4": node("CheckpointLoaderSimple", ckpt_name="any"),
        "5": node("VAEEncode", pixels=["1", 0], vae=["4", 2]),
        "6": node("CLIPTextEncode", text="a red apple", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
        "12": node("SetLatentNoiseMask", samples=["5", 0], mask=["2", 0]),
    }


@pytest.fixture
def bench(painting_bench: Workbench) -> Workbench:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 32:, 0] = 255
    Image.fromarray(mask).save(painting_bench.input_dir / "mask.png")
    return painting_bench


def result(bench: Workbench, data: dict[str, Any], node_id: str) -> Any:
    """The first output of a node."""
    executor = Executor(bench)
    checked = check_for(bench, workflow_from(data))
    shown = [item for item in executor.run(checked) if isinstance(item, NodePictures)]
    if node_id == "9":
        return shown[0].shown.pixels[0]
    return executor._cache.get(content_keys(checked, bench)[node_id])[0]


def test_outside_the_mask_the_latents_stay_and_inside_they_do_not(bench: Workbench) -> None:
    data = graph()
    before, after = result(bench, data, "5"), result(bench, data, "3")
    np.testing.assert_allclose(after.samples[..., :4], before.samples[..., :4], atol=1e-5)
    assert np.abs(after.samples[..., 4:] - before.samples[..., 4:]).min() > 1e-3
    assert after.mask.shape == (1, 1, 64, 64)


def test_the_denoiser_sees_the_picture_with_that_levels_noise_outside(bench: Workbench) -> None:
    """Two Euler steps by hand, after ComfyUI's rule."""
    data = graph(cfg=1.0)
    stages = bench.stages(bench.pack_for("any"))
    scale = stages.pack.manifest.latent_scale
    picture = result(bench, data, "5").samples * scale
    sigmas = [*(float(s) for s in NODES["BasicScheduler"].run(
        bench, model=stages, scheduler="normal", steps=2, denoise=1.0)[0])]  # fmt: skip
    noise = NoiseSource(7).normal(picture.shape)
    mask = np.zeros((1, 1, 8, 8))
    mask[..., 4:] = 1
    x, told = picture + np.hypot(sigmas[0], 1) * noise, stages.encode("a red apple")
    for here, there, timestep in zip(sigmas, sigmas[1:], (999.0, 0.0), strict=False):
        shown = x * mask + (picture + here * noise) * (1 - mask)
        output = stages.unet((shown / np.hypot(here, 1)).astype(np.float32), timestep, told)
        denoised = (shown - here * output) * mask + picture * (1 - mask)
        x = x + (x - denoised) / here * (there - here)
    np.testing.assert_allclose(result(bench, data, "3").samples, x / scale, rtol=1e-4, atol=1e-4)


def test_a_mask_of_ones_changes_nothing_and_of_zeros_keeps_all(bench: Workbench) -> None:
    plain = graph(latent_image=["5", 0])
    for value, wanted in ((255, result(bench, plain, "3")), (0, result(bench, plain, "5"))):
        Image.new("RGB", (16, 16), (value, 0, 0)).save(bench.input_dir / "mask.png")
        found = result(bench, graph(), "3")
        np.testing.assert_allclose(found.samples, wanted.samples, atol=1e-4)


def test_advanced_and_custom_samplers_keep_too(bench: Workbench) -> None:
    plain = result(bench, graph(), "3")
    data = graph()
    common = data["3"]["inputs"]
    part = {"add_noise": "enable", "noise_seed": 7, "start_at_step": 0, "end_at_step": 10000}
    kept = {name: value for name, value in common.items() if name not in ("seed", "denoise")}
    data["3"] = node("KSamplerAdvanced", **kept, **part, return_with_leftover_noise="disable")
    assert np.array_equal(result(bench, data, "3").samples, plain.samples)
    data["10"] = node("KSamplerSelect", sampler_name="euler")
    data["11"] = node("BasicScheduler", model=["4", 0], scheduler="normal", steps=2, denoise=1.0)
    links = {name: common[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
    data["3"] = node(
        "SamplerCustom", **links, add_noise=True, noise_seed=7, sampler=["10", 0], sigmas=["11", 0]
    )
    assert np.array_equal(result(bench, data, "3").samples, plain.samples)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m"])
def test_a_run_cut_off_goes_on_with_the_same_picture_outside(bench: Workbench, sampler: str) -> None:
    data = graph(sampler_name=sampler, steps=4)
    whole = result(bench, data, "3")
    checked = check_for(bench, workflow_from(data))
    run = Executor(bench).run(checked)
    cut = next(item for item in run if isinstance(item, NodeProgress) and item.step == 2)
    run.close()
    assert cut.state is not None
    executor = Executor(bench)
    seen = list(executor.run(checked, {cut.key: cut.state}))
    assert [item.step for item in seen if isinstance(item, NodeProgress) and item.node_id == "3"] == [0, 3, 4]
    again = executor._cache.get(content_keys(checked, bench)["3"])[0]
    assert np.array_equal(again.samples, whole.samples)


@pytest.mark.parametrize("grow", [0, 6])
def test_encoding_for_inpaint_greys_what_is_to_be_painted(bench: Workbench, grow: int) -> None:
    data = graph(latent_image=["13", 0])
    data["13"] = node("VAEEncodeForInpaint", pixels=["1", 0], mask=["2", 0], vae=["4", 2], grow_mask_by=grow)
    plain, grey = (
        result(bench, data | {"3": graph(latent_image=["5", 0])["3"]}, "5"),
        result(bench, data, "13"),
    )
    # the mask of 64x64 is stretched over 70x65 pixels, whose middle 64x64 are encoded: column 35 - 3 is grey
    np.testing.assert_allclose(grey.samples[..., :4], plain.samples[..., :4], atol=1e-6)
    assert not grey.samples[..., 4:].any()
    assert grey.mask.shape == (1, 1, 64, 64)
    assert grey.mask[0, 0, 30].argmax() == (30 if grow else 32)  # 6 pixels: 2 to the left, 3 to the right
    assert set(np.unique(grey.mask)) == {0, 1}
    assert result(bench, data, "9").shape == (64, 64, 3)


def test_an_inpaint_without_an_encoder_graph_is_refused(bench: Workbench) -> None:
    packs = Path(__file__).parent.parent / "packs"
    plain = Workbench([packs], {"*": "tiny"}, bench.input_dir, LimitSettings(), "cpu", 1)
    data = graph(latent_image=["13", 0])
    data["13"] = node("VAEEncodeForInpaint", pixels=["1", 0], mask=["2", 0], vae=["4", 2], grow_mask_by=6)
    with pytest.raises(BadWorkflow, match=r"node 13 \(VAEEncodeForInpaint\) vae: pack tiny cannot encode"):
        check_for(plain, workflow_from(data))


def test_masks_from_pictures(bench: Workbench) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[..., 1], rgba[..., 3] = 51, 204
    Image.fromarray(rgba).save(bench.input_dir / "clear.png")
    masks = {c: NODES["LoadImageMask"].run(bench, "clear.png", c)[0] for c in ("alpha", "red", "green")}
    assert {mask.shape for mask in masks.values()} == {(1, 4, 6)}
    assert {c: round(float(mask.mean()), 4) for c, mask in masks.items()} == {
        "alpha": 0.2, "red": 0.0, "green": 0.2,
    }  # fmt: skip
    _, transparent = NODES["LoadImage"].run(bench, "clear.png")
    assert np.array_equal(transparent, masks["alpha"])
    (opaque,) = NODES["LoadImageMask"].run(bench, "mask.png", "alpha")
    assert opaque.shape == (1, 64, 64)
    assert not opaque.any()


def area_graph(**place: Any) -> dict[str, Any]:
    data = graph(latent_image=["20", 0])
    data["20"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    where = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0, **place}
    data["21"] = node("ConditioningSetArea", conditioning=["6", 0], **where)
    data["22"] = node("CLIPTextEncode", text="the sea", clip=["4", 1])
    data["23"] = node("ConditioningCombine", conditioning_1=["21", 0], conditioning_2=["22", 0])
    data["3"]["inputs"]["positive"] = ["23", 0]
    return data


def test_an_area_of_the_whole_is_as_none_and_strengths_weigh(bench: Workbench) -> None:
    whole = area_graph()
    without = area_graph()
    without["23"]["inputs"]["conditioning_1"] = ["6", 0]
    found = [result(bench, data, "3").samples for data in (whole, without, area_graph(strength=9.0))]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.abs(found[2] - found[1]).max() > 1e-2


def test_an_area_speaks_of_its_part_with_the_same_part_of_the_other_side(bench: Workbench) -> None:
    """One look by hand: the area's answer, faded at its inner edges, and the whole's, by weight."""
    stages = bench.stages(bench.pack_for("any"))
    latents = NoiseSource(1).normal((1, 4, 16, 16))
    sea, apple = stages.encode("the sea"), stages.encode("a red apple")
    area = Area(width=64, height=128, x=64, y=0)
    got = stages.predict(latents, 500.0, [sea, Encoding(apple.hidden, area=area, strength=2.0)])
    whole, part = stages.unet(latents, 500.0, sea), stages.unet(latents[..., 8:].copy(), 500.0, apple)
    weight = 2 * np.array([0.5, 1, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(got[..., :8], whole[..., :8], rtol=1e-5, atol=1e-6)
    wanted = (whole[..., 8:] + part * weight) / (1 + weight)
    np.testing.assert_allclose(got[..., 8:], wanted, rtol=1e-4, atol=1e-5)


def test_fading_is_over_a_quarter_and_not_at_the_pictures_edges() -> None:
    assert fading_weight(slice(0, 16), 16).tolist() == [1.0] * 16
    assert fading_weight(slice(2, 10), 16).tolist() == [0.5, 1, 1, 1, 1, 1, 1, 0.5]
    assert fading_weight(slice(0, 40), 64)[-8:].tolist() == [1 - k / 8 for k in range(8)]


def test_the_other_side_of_guidance_looks_at_the_same_areas() -> None:
    rows = np.zeros((1, 1, 1), np.float32)
    area, larger = Area(64, 64, 64, 0), Area(128, 64, 0, 0)
    plain, wide = Encoding(rows), Encoding(rows + 1, area=larger)
    wanted = [Encoding(rows, area=area, strength=2.0)]
    found = with_counterparts([plain, wide], wanted)
    assert [(e.area, e.strength, float(e.hidden.sum())) for e in found] == [
        (None, 1.0, 0.0), (larger, 1.0, 1.0), (area, 2.0, 1.0),
    ]  # fmt: skip
    assert with_counterparts([plain], [plain]) == [plain]
    assert with_counterparts([Encoding(rows, area=area)], wanted)[0].area == area
    assert len(with_counterparts([Encoding(rows, area=area)], wanted)) == 1


@pytest.mark.parametrize("place", [{"x": 64}, {"width": 72, "x": 8}, {"width": 64, "x": 24}])
def test_an_area_that_the_denoiser_cannot_draw_is_refused(bench: Workbench, place: dict[str, int]) -> None:
    checked = check_for(bench, workflow_from(area_graph(**place)))
    with pytest.raises(BadWorkflow, match=r"node 3 \(KSampler\) positive: the area .* is not allowed"):
        list(Executor(bench).run(checked))


def test_latents_keep_their_mask_when_moved(bench: Workbench) -> None:
    masked = Latents(np.zeros((1, 4, 8, 8), np.float32), 8, 1.0, np.ones((1, 1, 8, 8), np.float32))
    (twice,) = NODES["LatentUpscaleBy"].run(bench, masked, "bilinear", 1.5)
    (added,) = NODES["LatentAdd"].run(bench, masked, masked)
    assert twice.mask is masked.mask
    assert added.mask is masked.mask
