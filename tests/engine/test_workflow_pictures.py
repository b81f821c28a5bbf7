"""Nodes that put pictures and masks together, on small arrays worked out by hand or by SciPy; in workflows on
the tiny pack with an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from edgegen.engine.areas import blended
from edgegen.engine.conditioning import Area, Encoding, placed
from edgegen.engine.estimate import graph_runs
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.nodes import NODES, Latents, check_for
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from

RNG = np.random.default_rng(0)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def picture(width: int, height: int, count: int = 1) -> np.ndarray:
    return RNG.random((count, 3, height, width), np.float32) * 2 - 1


def run(bench: Workbench, name: str, **inputs: Any) -> Any:
    """The first output."""
    return NODES[name].run(bench, **inputs)[0]


def test_empty_image_is_of_the_colour(painting_bench: Workbench) -> None:
    found = run(painting_bench, "EmptyImage", width=3, height=2, batch_size=2, color=0xFF8000)
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_allclose((found[1, :, 1, 2] + 1) / 2, [1, 128 / 255, 0], atol=1e-6)


def test_image_batch_brings_the_second_to_the_firsts_size(painting_bench: Workbench) -> None:
    one, two = picture(8, 4), picture(8, 8)
    found = run(painting_bench, "ImageBatch", image1=one, image2=two)
    np.testing.assert_array_equal(found[0], one[0])
    np.testing.assert_allclose(found[1], two[0, :, 2:6], atol=1e-6)  # the middle, unscaled
    with pytest.raises(BadRequest, match="18 pictures together; at most 16"):
        run(painting_bench, "ImageBatch", image1=picture(2, 2, 9), image2=picture(2, 2, 9))


def test_image_crop_stays_inside(painting_bench: Workbench) -> None:
    image = picture(8, 6)
    found = run(painting_bench, "ImageCrop", image=image, width=5, height=3, x=2, y=1)
    np.testing.assert_array_equal(found, image[:, :, 1:4, 2:7])
    found = run(painting_bench, "ImageCrop", image=image, width=5, height=3, x=99, y=5)
    np.testing.assert_array_equal(found, image[:, :, 5:, 7:])


def test_image_scale_to_total_pixels(painting_bench: Workbench) -> None:
    how = {"upscale_method": "bilinear", "megapixels": 0.01}
    found = run(painting_bench, "ImageScaleToTotalPixels", image=picture(40, 10), **how)
    assert found.shape[2:] == (51, 205)  # 10486 pixels in all
    found = run(painting_bench, "ImageScaleToTotalPixels", image=picture(40, 10), **how, resolution_steps=8)
    assert found.shape[2:] == (48, 208)


def test_image_pad_for_outpaint_is_grey_and_fades(painting_bench: Workbench) -> None:
    image = picture(10, 10)
    how = {"left": 4, "top": 0, "right": 0, "bottom": 2, "feathering": 4}
    padded, mask = NODES["ImagePadForOutpaint"].run(painting_bench, image=image, **how)
    assert (padded.shape, mask.shape) == ((1, 3, 12, 14), (1, 12, 14))
    np.testing.assert_array_equal(padded[:, :, :10, 4:], image)
    assert not padded[:, :, :, :4].any() and not padded[:, :, 10:].any()  # 0 is grey
    assert (mask[:, :, :4] == 1).all() and (mask[:, 10:] == 1).all()
    np.testing.assert_allclose(mask[0, 0, 4:], [1, 9 / 16, 4 / 16, 1 / 16, *[0] * 6])
    np.testing.assert_allclose(mask[0, :10, 13], [*[0] * 7, 1 / 16, 4 / 16, 9 / 16])
    plain = NODES["ImagePadForOutpaint"].run(painting_bench, image=image, **how | {"feathering": 5})[1]
    assert set(np.unique(plain)) == {0, 1}, "half as wide as the picture: no fading, as there"


def test_image_composite_masked_mixes_by_the_mask(painting_bench: Workbench) -> None:
    below, above, mask = picture(8, 8, 2), picture(6, 4), RNG.random((1, 4, 6), np.float32)
    how = {"destination": below, "source": above, "x": 5, "y": 6, "resize_source": False}
    found = run(painting_bench, "ImageCompositeMasked", **how, mask=mask)
    wanted = below.copy()
    part = mask[:, :2, :3]
    wanted[:, :, 6:, 5:] = part * above[:, :, :2, :3] + (1 - part) * below[:, :, 6:, 5:]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    outside = run(painting_bench, "ImageCompositeMasked", **how | {"x": 99})
    np.testing.assert_array_equal(outside, below)
    whole = run(painting_bench, "ImageCompositeMasked", **how | {"x": 0, "y": 0, "resize_source": True})
    assert not np.array_equal(whole[:, :, 7, 7], below[:, :, 7, 7])


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("normal", 0.75),
        ("multiply", 0.25 * 0.75),
        ("screen", 1 - 0.75 * 0.25),
        ("overlay", 2 * 0.25 * 0.75),
        ("soft_light", 0.25 + 0.5 * (((16 * 0.25 - 12) * 0.25 + 4) * 0.25 - 0.25)),
        ("difference", 0.25 - 0.75),
    ],
)
def test_image_blend(painting_bench: Workbench, mode: str, wanted: float) -> None:
    one, two = (np.full((1, 3, 4, 4), value * 2 - 1, np.float32) for value in (0.25, 0.75))
    found = run(painting_bench, "ImageBlend", image1=one, image2=two, blend_factor=0.5, blend_mode=mode)
    np.testing.assert_allclose(found / 2 + 0.5, max(0, (0.25 + wanted) / 2), atol=1e-6)


def test_image_blur_is_the_gaussian_in_radii(painting_bench: Workbench) -> None:
    image, radius, sigma = picture(12, 9), 3, 0.7
    at = np.linspace(-1, 1, 2 * radius + 1)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wanted = [scipy.ndimage.convolve(band, kernel, mode="mirror") for band in image[0]]
    found = run(painting_bench, "ImageBlur", image=image, blur_radius=radius, sigma=sigma)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    with pytest.raises(BadRequest, match="of 12x9 pixels is smaller"):
        run(painting_bench, "ImageBlur", image=image, blur_radius=9, sigma=1.0)


@pytest.mark.parametrize("tapered", [True, False])
@pytest.mark.parametrize("expand", [-2, 0, 3])
def test_grow_mask_is_scipys_grey_morphology(painting_bench: Workbench, tapered: bool, expand: int) -> None:
    mask = (RNG.random((2, 11, 13)) > 0.8).astype(np.float32) * RNG.random((2, 11, 13), np.float32)
    corner = 0 if tapered else 1
    kernel = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
    spread = scipy.ndimage.grey_erosion if expand < 0 else scipy.ndimage.grey_dilation
    wanted = mask
    for _ in range(abs(expand)):
        wanted = np.stack([spread(one, footprint=kernel) for one in wanted])
    found = run(painting_bench, "GrowMask", mask=mask, expand=expand, tapered_corners=tapered)
    np.testing.assert_array_equal(found, wanted)


def test_masks_are_made_cut_feathered_and_combined(painting_bench: Workbench) -> None:
    solid = run(painting_bench, "SolidMask", value=0.5, width=6, height=4)
    assert (solid.shape, set(solid.ravel())) == ((1, 4, 6), {0.5})
    mask = RNG.random((1, 4, 6), np.float32)
    cut = run(painting_bench, "CropMask", mask=mask, x=2, y=1, width=9, height=2)
    np.testing.assert_array_equal(cut, mask[:, 1:3, 2:])
    with pytest.raises(BadRequest, match="nothing of the mask of 6x4 lies there"):
        run(painting_bench, "CropMask", mask=mask, x=6, y=0, width=1, height=1)
    edges = {"left": 2, "top": 0, "right": 2, "bottom": 0}
    faded = run(painting_bench, "FeatherMask", mask=np.ones((1, 1, 6), np.float32), **edges)
    np.testing.assert_allclose(faded[0, 0], [0.25, 1, 1, 1, 1, 1])  # as there: the right one's first is here
    how = {"destination": mask, "source": np.full((1, 2, 9), 0.6, np.float32), "x": 4, "y": 3}
    for operation, wanted in {
        "multiply": mask[0, 3, 4:] * 0.6,
        "add": np.minimum(mask[0, 3, 4:] + 0.6, 1),
        "subtract": np.maximum(mask[0, 3, 4:] - 0.6, 0),
        "and": mask[0, 3, 4:].round(),
        "or": np.ones(2),
        "xor": 1 - mask[0, 3, 4:].round(),
    }.items():
        found = run(painting_bench, "MaskComposite", **how, operation=operation)
        np.testing.assert_allclose(found[0, 3, 4:], wanted, atol=1e-6)
        np.testing.assert_array_equal(found[0, :3], mask[0, :3])


def test_repeat_latent_batch_repeats_masks_too(painting_bench: Workbench) -> None:
    samples, mask = np.arange(3, dtype=np.float32), np.arange(2, dtype=np.float32)
    latents = Latents(samples.reshape(3, 1, 1, 1), mask=mask.reshape(2, 1, 1, 1))
    found = run(painting_bench, "RepeatLatentBatch", samples=latents, amount=2)
    assert (found.samples.ravel().tolist(), found.mask.ravel().tolist()) == (
        [0, 1, 2, 0, 1, 2],
        [0, 1, 0, 0, 1, 0],
    )
    with pytest.raises(BadRequest, match="makes 18 pictures; at most 16"):
        run(painting_bench, "RepeatLatentBatch", samples=latents, amount=6)


def encoding(value: float) -> Encoding:
    return Encoding(np.full((1, 1, 1), value, np.float32))


def look(part: np.ndarray, told: Encoding) -> np.ndarray:
    return np.full_like(part, told.hidden[0, 0, 0])


def test_conditioning_set_area_percentage_is_placed_at_whole_latents(painting_bench: Workbench) -> None:
    share = {"width": 0.5, "height": 0.26, "x": 0.5, "y": 0.0, "strength": 2.0}
    (told,) = run(painting_bench, "ConditioningSetAreaPercentage", conditioning=[encoding(1)], **share)
    (found,) = placed([told], 10, 8, 8)
    assert (found.area, found.strength, found.share) == (Area(5 * 8, 2 * 8, 5 * 8, 0), 2.0, None)


def test_conditioning_set_mask_and_strength_weigh(painting_bench: Workbench) -> None:
    mask = np.zeros((1, 4, 4), np.float32)
    mask[:, :, 2:] = 0.5
    how = {"mask": mask, "strength": 2.0, "set_cond_area": "default"}
    (masked,) = run(painting_bench, "ConditioningSetMask", conditioning=[encoding(5)], **how)
    (weak,) = run(painting_bench, "ConditioningSetAreaStrength", conditioning=[encoding(1)], strength=0.25)
    found = blended(look, np.zeros((1, 1, 4, 4), np.float32), [masked, weak], 8)
    np.testing.assert_allclose(found[0, 0, 0], [1, 1, (5 + 0.25) / 1.25, (5 + 0.25) / 1.25])


def outpaint(**around: Any) -> dict[str, Any]:
    how = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sides = {"left": 0, "top": 0, "right": 26, "bottom": 31, "feathering": 8, **around}
    return {
        "1": node("LoadImage", image="example.png"),
        "2": node("ImagePadForOutpaint", image=["1", 0], **sides),
        "3": node(
            "KSampler", **how, model=["4", 0], positive=["5", 0], negative=["5", 1], latent_image=["5", 2]
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="any"),
        "5": node(
            "InpaintModelConditioning", positive=["6", 0], negative=["7", 0], vae=["4", 2], pixels=["2", 0],
            mask=["2", 1], noise_mask=True,
        ),
        "6": node("CLIPTextEncode", text="a red apple", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("PreviewImage", images=["8", 0]),
    }  # fmt: skip


def shown(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    items = Executor(bench).run(check_for(bench, workflow_from(data)))
    return next(item for item in items if isinstance(item, NodePictures)).shown.pixels[0]


def test_inpaint_model_conditioning_is_encode_and_set_mask(painting_bench: Workbench) -> None:
    data = outpaint()
    found = shown(painting_bench, data)
    data["5"] = node("VAEEncode", pixels=["2", 0], vae=["4", 2])
    data["10"] = node("SetLatentNoiseMask", samples=["5", 0], mask=["2", 1])
    data["3"]["inputs"] |= {"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["10", 0]}
    assert found.shape == (96, 96, 3)
    np.testing.assert_array_equal(found, shown(painting_bench, data))


def test_get_image_size_is_foretold_and_checked_when_it_runs(painting_bench: Workbench) -> None:
    data = outpaint(right=0, bottom=0)
    data["11"] = node("GetImageSize", image=["2", 0])
    data["12"] = node("EmptyImage", width=["11", 0], height=["11", 1], batch_size=["11", 2], color=0)
    data["9"]["inputs"]["images"] = ["12", 0]
    assert shown(painting_bench, data).shape == (65, 70, 3)
    data["13"] = node("EmptyLatentImage", width=["11", 0], height=["11", 1], batch_size=1)
    data["3"]["inputs"]["latent_image"] = ["13", 0]
    data["9"]["inputs"]["images"] = ["8", 0]
    runs = graph_runs(painting_bench, check_for(painting_bench, workflow_from(data)))
    assert runs and {run.size for run in runs if run.role == "unet"} == {"8x8"}
    data["14"] = node("ImageCrop", image=["1", 0], width=8, height=8, x=0, y=0)
    data["11"]["inputs"]["image"] = ["14", 0]
    with pytest.raises(BadWorkflow, match=r"node 13 \(EmptyLatentImage\) width: is too small"):
        shown(painting_bench, data)


def test_a_size_that_is_worked_out_keeps_the_bounds(painting_bench: Workbench) -> None:
    data = outpaint()
    data["11"] = node("GetImageSize", image=["2", 0])
    data["12"] = node("ImageBlur", image=["1", 0], blur_radius=["11", 0], sigma=1.0)
    data["9"]["inputs"]["images"] = ["12", 0]
    with pytest.raises(
        BadWorkflow, match=r"node 12 \(ImageBlur\) blur_radius: is too big; allowed are 1 to 31"
    ):
        shown(painting_bench, data)


@pytest.mark.parametrize(
    ("nodes", "size", "count"),
    [
        ({"2": node("ImageCrop", image=["1", 0], width=999, height=64, x=6, y=1)}, "64x64", 1),
        ({"2": node("ImageBatch", image1=["1", 0], image2=["1", 0])}, "64x64", 2),
        ({"10": node("RepeatLatentBatch", samples=["5", 0], amount=3)}, "64x64", 3),
        ({"2": outpaint()["2"]}, "96x96", 1),
    ],
)
def test_sizes_are_foretold(painting_bench: Workbench, nodes: dict[str, Any], size: str, count: int) -> None:
    data = outpaint() | {"5": node("VAEEncode", pixels=["2", 0], vae=["4", 2])} | nodes
    latents = "10" if "10" in nodes else "5"
    if latents == "10":
        data["2"] = node("ImageCrop", image=["1", 0], width=64, height=64, x=0, y=0)
    data["3"]["inputs"] |= {"positive": ["6", 0], "negative": ["7", 0], "latent_image": [latents, 0]}
    runs = graph_runs(painting_bench, check_for(painting_bench, workflow_from(data)))
    side = "x".join(str(int(part) // 8) for part in size.split("x"))
    assert runs and {(run.size, n) for run, n in runs.items() if run.role == "unet"} == {(side, 4 * count)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (node("RepeatLatentBatch", samples=["5", 2], amount=17), "amount: 17 is not allowed here: 1 to 16"),
        (node("RepeatLatentBatch", samples=["5", 2], amount=0), "amount: 0 is too small"),
    ],
)
def test_what_a_device_cannot_is_refused_at_the_check(
    painting_bench: Workbench, changed: dict[str, Any], said: str
) -> None:
    data = outpaint() | {"10": changed}
    data["3"]["inputs"]["latent_image"] = ["10", 0]
    with pytest.raises(BadWorkflow) as caught:
        check_for(painting_bench, workflow_from(data))
    assert [said in str(problem) for problem in caught.value.found] == [True]


def test_conditioning_set_mask_says_that_it_takes_no_bounds(painting_bench: Workbench) -> None:
    data = outpaint()
    data["10"] = node(
        "ConditioningSetMask", conditioning=["6", 0], mask=["2", 1], strength=1.0, set_cond_area="mask bounds"
    )
    data["5"]["inputs"]["positive"] = ["10", 0]
    with pytest.raises(BadWorkflow, match="mask bounds is not done here"):
        check_for(painting_bench, workflow_from(data))
