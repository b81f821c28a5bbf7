"""Nodes that pick, repeat and join parts of a batch; that cut, turn and lay latents; edges and sharpness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.diffusion.rng import NoiseSource, noise_by_place
from edgegen.engine.estimate import graph_runs
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.nodes import NODES, Latents, check_for
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from tests.support import text_to_image_graph

PACKS = Path(__file__).parent.parent / "packs"
RNG = np.random.default_rng(2)


@pytest.fixture
def bench(tmp_path: Path):
    bench = Workbench([PACKS], {}, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def run(name: str, **inputs: Any) -> Any:
    """The first output."""
    return NODES[name].run(None, **inputs)[0]


def numbered(count: int, **more: Any) -> Latents:
    return Latents(np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1) * np.ones((1, 4, 2, 2)), **more)


def first_numbers(latents: Latents) -> list[float]:
    return latents.samples[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("index", "length", "wanted"),
    [(0, 1, [0]), (1, 2, [1, 2]), (3, 9, [3, 4]), (63, 2, [4]), (0, 64, [0, 1, 2, 3, 4])],
)  # fmt: skip
def test_latent_from_batch_takes_what_there_is(index: int, length: int, wanted: list[int]) -> None:
    masks = np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)
    found = run("LatentFromBatch", samples=numbered(5, mask=masks), batch_index=index, length=length)
    assert first_numbers(found) == wanted
    assert found.mask.ravel().tolist() == [k % 2 for k in wanted]
    assert found.places == tuple(wanted)
    again = run("LatentFromBatch", samples=found, batch_index=1, length=1)
    assert again.places == (wanted[min(1, len(wanted) - 1)],)
    one_mask = np.zeros((1, 1, 2, 2), np.float32)
    found = run("LatentFromBatch", samples=numbered(5, mask=one_mask), batch_index=index, length=length)
    assert found.mask is one_mask


def test_latent_batch_joins_and_remembers_places() -> None:
    some = run("LatentFromBatch", samples=numbered(5), batch_index=2, length=2)
    found = run("LatentBatch", samples1=some, samples2=numbered(3))
    assert first_numbers(found) == [2, 3, 0, 1, 2]
    assert found.places == (2, 3, 0, 1, 2)
    larger = Latents(np.full((1, 4, 4, 8), 7, np.float32), scale=0.5)
    found = run("LatentBatch", samples1=numbered(1), samples2=larger)
    assert (found.samples.shape, found.scale) == ((2, 4, 2, 2), 0.5)
    np.testing.assert_allclose(found.samples[1], 7)
    with pytest.raises(BadRequest, match="makes 18 pictures; at most 16 are allowed"):
        run("LatentBatch", samples1=numbered(9), samples2=numbered(9))
    with pytest.raises(BadRequest, match="come from another pack"):
        run("LatentBatch", samples1=numbered(1), samples2=Latents(np.zeros((1, 16, 2, 2), np.float32)))


def test_repeated_places_go_on_behind_the_last() -> None:
    some = run("LatentFromBatch", samples=numbered(9), batch_index=4, length=2)
    assert run("RepeatLatentBatch", samples=some, amount=3).places == (4, 5, 6, 7, 8, 9)
    assert run("RepeatLatentBatch", samples=numbered(2), amount=2).places is None


def test_images_are_picked_and_repeated() -> None:
    images = RNG.random((3, 3, 4, 5), np.float32)
    np.testing.assert_array_equal(run("ImageFromBatch", image=images, batch_index=1, length=9), images[1:])
    np.testing.assert_array_equal(run("ImageFromBatch", image=images, batch_index=99, length=1), images[2:])
    found = run("RepeatImageBatch", image=images, amount=2)
    np.testing.assert_array_equal(found, np.concatenate([images, images]))
    with pytest.raises(BadRequest, match="makes 18 pictures"):
        run("RepeatImageBatch", image=images, amount=6)


def test_noise_by_place_is_what_the_whole_batch_has() -> None:
    whole = NoiseSource(5).normal((4, 4, 8, 8))
    np.testing.assert_array_equal(noise_by_place(5, (2, 4, 8, 8), (3, 1)), whole[[3, 1]])
    # of 36 numbers torch draws the last block afresh for each: ComfyUI's parts of such a batch differ, too
    source = NoiseSource(5)
    one_by_one = np.concatenate([source.normal((1, 4, 3, 3)) for _ in range(3)])
    np.testing.assert_array_equal(noise_by_place(5, (1, 4, 3, 3), (2,)), one_by_one[2:])


def shown(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    (found,) = [item for item in Executor(bench).run(checked(bench, data)) if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def checked(bench: Workbench, data: dict[str, Any]) -> Any:
    return check_for(bench, workflow_from(data))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_picture_of_a_batch_is_made_again_alone(bench: Workbench, sampler: str) -> None:
    data = text_to_image_graph(sampler_name=sampler)
    data["5"]["inputs"]["batch_size"] = 3
    whole = shown(bench, data)
    data["12"] = node("LatentFromBatch", samples=["5", 0], batch_index=1, length=2)
    data["3"]["inputs"]["latent_image"] = ["12", 0]
    np.testing.assert_array_equal(shown(bench, data), whole[1:])


@pytest.mark.parametrize(
    ("nodes", "size", "count"),
    [
        ({"12": node("LatentFromBatch", samples=["5", 0], batch_index=2, length=9)}, "8x8", 2),
        ({"12": node("LatentBatch", samples1=["5", 0], samples2=["5", 0])}, "8x8", 8),
        ({"12": node("LatentCrop", samples=["5", 0], width=64, height=64, x=32, y=0)}, "8x8", 4),
        ({"12": node("LatentRotate", samples=["5", 0], rotation="90 degrees")}, "8x12", 4),
        ({"12": node("LatentRotate", samples=["5", 0], rotation="180 degrees")}, "12x8", 4),
        ({"12": node("LatentFlip", samples=["5", 0], flip_method="x-axis: vertically")}, "12x8", 4),
    ],
)
def test_sizes_are_foretold(bench: Workbench, nodes: dict[str, Any], size: str, count: int) -> None:
    data = text_to_image_graph(steps=1, cfg=1) | nodes
    tall = "LatentCrop" not in str(nodes) and "Batch" not in str(nodes)
    data["5"]["inputs"] |= {"height": 96 if tall else 64, "width": 64, "batch_size": 4}
    data["3"]["inputs"]["latent_image"] = ["12", 0]
    runs = graph_runs(bench, checked(bench, data))
    assert runs is not None
    assert {(run.size, times) for run, times in runs.items() if run.role == "unet"} == {(size, count)}
    pictures = shown(bench, data)
    height, width = map(int, size.split("x"))
    assert pictures.shape == (count, height * 8, width * 8, 3)


def test_latents_are_flipped_and_turned_clockwise() -> None:
    latents = Latents(np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3))
    rows = {
        ("LatentFlip", "flip_method", "x-axis: vertically"): [[3, 4, 5], [0, 1, 2]],
        ("LatentFlip", "flip_method", "y-axis: horizontally"): [[2, 1, 0], [5, 4, 3]],
        ("LatentRotate", "rotation", "none"): [[0, 1, 2], [3, 4, 5]],
        ("LatentRotate", "rotation", "90 degrees"): [[3, 0], [4, 1], [5, 2]],
        ("LatentRotate", "rotation", "180 degrees"): [[5, 4, 3], [2, 1, 0]],
        ("LatentRotate", "rotation", "270 degrees"): [[2, 5], [1, 4], [0, 3]],
    }
    for (name, how, choice), wanted in rows.items():
        assert run(name, samples=latents, **{how: choice}).samples[0, 0].tolist() == wanted


def test_latent_crop_begins_inside() -> None:
    latents = Latents(RNG.random((1, 4, 12, 20), np.float32))
    found = run("LatentCrop", samples=latents, width=64, height=72, x=16, y=0)
    np.testing.assert_array_equal(found.samples, latents.samples[:, :, :9, 2:10])
    found = run("LatentCrop", samples=latents, width=512, height=512, x=999, y=999)
    np.testing.assert_array_equal(found.samples, latents.samples[:, :, 4:, 12:])


def test_latent_composite_fades_in_at_inner_edges() -> None:
    base, laid = (Latents(np.full((1, 1, 6, size), value, np.float32)) for size, value in ((10, 0), (4, 1)))
    how = {"samples_to": base, "samples_from": laid, "y": 0, "feather": 16}
    found = run("LatentComposite", **how, x=24).samples
    np.testing.assert_allclose(found[0, 0, 2], [0, 0, 0, 0.5, 1, 1, 0.5, 0, 0, 0])
    np.testing.assert_allclose(run("LatentComposite", **how, x=64).samples[0, 0, 0], [*[0] * 8, 0.5, 1])
    hard = run("LatentComposite", **how | {"feather": 0}, x=64).samples
    np.testing.assert_allclose(hard[0, 0, 0], [*[0] * 8, 1, 1])
    low = Latents(np.ones((1, 1, 2, 10), np.float32))
    found = run("LatentComposite", samples_to=base, samples_from=low, x=0, y=16, feather=8).samples
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0, 1, 1, 0, 0])
    with pytest.raises(BadRequest, match="2 latents do not fit 3"):
        run("LatentComposite", samples_to=numbered(3), samples_from=numbered(2), x=0, y=0, feather=0)


def test_latent_subtract() -> None:
    found = run("LatentSubtract", samples1=numbered(3), samples2=numbered(2, scale=0.5))
    assert (first_numbers(found), found.scale) == ([0, 0, 2], 0.5)


def test_masks_by_colour_and_threshold() -> None:
    pixels = np.array([[0x12, 0x34, 0x56], [0x12, 0x34, 0x57]], np.float32).T.reshape(1, 3, 1, 2)
    found = run("ImageColorToMask", image=pixels / 127.5 - 1, color=0x123456)
    assert found.tolist() == [[[1, 0]]]
    mask = np.array([[[0.2, 0.5, 0.7]]], np.float32)
    assert run("ThresholdMask", mask=mask, value=0.5).tolist() == [[[0, 0, 1]]]


def test_image_sharpen_is_the_published_kernel() -> None:
    from scipy import ndimage

    image, radius, sigma, alpha = RNG.random((1, 3, 9, 12), np.float32) * 0.2 - 0.1, 2, 0.8, 0.05
    at = np.linspace(-1, 1, 2 * radius + 1)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum() * -(alpha * 10)
    kernel[radius, radius] += 1 - kernel.sum()
    wanted = [ndimage.convolve(band, kernel, mode="mirror") for band in image[0]]
    found = run("ImageSharpen", image=image, sharpen_radius=radius, sigma=sigma, alpha=alpha)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    strong = run("ImageSharpen", image=image * 10, sharpen_radius=radius, sigma=sigma, alpha=5.0)
    assert (strong.min(), strong.max()) == (-1, 1)
    with pytest.raises(BadRequest, match="of 12x9 pixels is smaller"):
        run("ImageSharpen", image=image, sharpen_radius=9, sigma=1.0, alpha=1.0)


def test_canny_is_white_on_black(painting_bench: Workbench) -> None:
    disc = (np.hypot(*(np.mgrid[:32, :32] - 15.5)) < 9).astype(np.float32)
    image = np.repeat(disc[None, None], 3, axis=1) * 2 - 1
    found = run(
        "Canny", image=np.concatenate([image, -np.ones_like(image)]), low_threshold=0.4, high_threshold=0.8
    )
    assert found.shape == (2, 3, 32, 32)
    assert set(np.unique(found[0])) == {-1, 1}
    assert (found[1] == -1).all()
    data = {
        "1": node("LoadImage", image="example.png"),
        "2": node("Canny", image=["1", 0], low_threshold=0.9, high_threshold=0.4),
        "3": node("PreviewImage", images=["2", 0]),
    }
    with pytest.raises(BadWorkflow, match=r"0\.9 is above high_threshold \(0\.4\)"):
        checked(painting_bench, data)
    data["2"]["inputs"]["low_threshold"] = 0.2
    assert set(np.unique(shown(painting_bench, data))) == {0, 255}
    with pytest.raises(BadRequest, match="of 9x2 pixels is too small"):
        run("Canny", image=np.zeros((1, 3, 2, 9), np.float32), low_threshold=0.4, high_threshold=0.8)
