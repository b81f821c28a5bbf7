"""Workflows on the real tiny pack, through real ONNX Runtime sessions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgegen.diffusion.pixels import to_uint8, to_uint8_cut
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.schedulers import SCHEDULERS, make_scheduler
from edgegen.engine.conditioning import Encoding
from edgegen.engine.executor import Executor, NodePictures, NodeProgress
from edgegen.engine.nodes import NODES, check_for
from edgegen.engine.pipeline import GenerationSettings, Picture, Progress, TextToImage
from edgegen.engine.request import noise_schedule
from edgegen.engine.workbench import Workbench
from edgegen.errors import BadRequest, EngineError
from edgegen.pack import Pack
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow, parse_workflow
from edgegen.workflow.parse import workflow_from

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
TINY = Path(__file__).parent.parent / "packs" / "tiny"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    mapping = {CHECKPOINT: "tiny", "lost.ckpt": "gone"}
    (tmp_path / "input").mkdir()
    bench = Workbench([TINY.parent], mapping, tmp_path / "input", LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def txt2img(**sampler: Any) -> dict[str, Any]:
    settings = {
        "seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": {**settings, **links, **sampler}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.2) apple\n", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    }  # fmt: skip


def run(bench: Workbench, data: dict[str, Any], executor: Executor | None = None) -> list[Any]:
    return list((executor or Executor(bench)).run(check_for(bench, workflow_from(data))))


def pixels(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    (found,) = [item for item in run(bench, data) if isinstance(item, NodePictures)]
    return np.stack(found.shown.pixels)


def ran(items: list[Any]) -> list[str]:
    return [item.node_id for item in items if isinstance(item, NodeProgress) and item.step == 0]


def picture_latents(engine: TextToImage, settings: GenerationSettings) -> np.ndarray:
    """The latents that `generate` decodes."""
    *_, last, _ = engine.generate(settings)
    assert isinstance(last, Progress)
    return last.latents


@pytest.mark.parametrize("sampler", [name for name, kind in SCHEDULERS.items() if not kind.uses_noise])
def test_text_to_image_is_what_generate_makes_but_for_its_rounding(bench: Workbench, sampler: str) -> None:
    scheduler = "karras" if sampler == "dpmpp_2m" else "normal"
    got = pixels(bench, txt2img(sampler_name=sampler, scheduler=scheduler))
    settings = GenerationSettings("a (red:1.2) apple", "a dog", 7, 3, 3.0, 64, 64, sampler, scheduler)
    with TextToImage(Pack.open(TINY), "cpu", 1) as engine:
        *_, picture = engine.generate(settings)
        decoded = engine.stages.decode(engine.stages.unscaled(picture_latents(engine, settings)))
    assert isinstance(picture, Picture)
    assert np.array_equal(picture.pixels, to_uint8(decoded))
    assert np.array_equal(got[0], to_uint8_cut(decoded))


@pytest.mark.parametrize("sampler", [name for name, kind in SCHEDULERS.items() if kind.uses_noise])
def test_noise_on_the_way_is_of_the_next_seed_as_comfyui_draws_it_on_a_cpu(
    bench: Workbench, sampler: str
) -> None:
    stages = bench.stages(bench.pack_for("tiny"))
    manifest = stages.pack.manifest
    run = make_scheduler(sampler, noise_schedule(manifest), manifest.prediction_type, 3, "normal")
    start = NoiseSource(7).normal((1, 4, 8, 8)) * np.float32(run.init_noise_sigma)
    words = [stages.encode("a (red:1.2) apple")], [stages.encode("a dog")]
    *_, last = stages.denoise(run, start, *words, 3.0, NoiseSource(8))
    wanted = to_uint8_cut(stages.decode(stages.unscaled(last.latents)))
    assert np.array_equal(pixels(bench, txt2img(sampler_name=sampler))[0], wanted)
    assert not np.array_equal(pixels(bench, txt2img(sampler_name=sampler, seed=8))[0], wanted)


def test_progress_for_every_node_and_step_in_order(bench: Workbench) -> None:
    items = run(bench, txt2img())
    assert set(ran(items)) == set("3456789")
    steps = [(p.step, p.steps) for p in items if isinstance(p, NodeProgress) and p.node_id == "3"]
    assert steps == [(0, 0), (1, 3), (2, 3), (3, 3)]
    assert isinstance(items[-1], NodePictures)
    assert (items[-1].node_id, items[-1].shown.prefix) == ("9", "ComfyUI")


def test_unchanged_nodes_are_not_run_again(bench: Workbench) -> None:
    executor = Executor(bench)
    first = run(bench, txt2img(), executor)
    assert ran(run(bench, txt2img(), executor)) == ["9"]
    changed = txt2img(seed=8)
    again = run(bench, changed, executor)
    assert ran(again) == ["3", "8", "9"]
    assert not np.array_equal(first[-1].shown.pixels, again[-1].shown.pixels)
    changed["6"]["inputs"]["text"] = "a cat"
    assert ran(run(bench, changed, executor)) == ["6", "3", "8", "9"]
    executor.close()
    assert len(ran(run(bench, changed, executor))) == 7


def test_a_cache_without_room_runs_all_again(bench: Workbench) -> None:
    executor = Executor(bench, cache_bytes=0)
    first, again = run(bench, txt2img(), executor), run(bench, txt2img(), executor)
    assert "3" in ran(again)
    assert np.array_equal(first[-1].shown.pixels, again[-1].shown.pixels)


def test_closing_the_generator_cancels_between_steps(bench: Workbench) -> None:
    work = Executor(bench).run(check_for(bench, workflow_from(txt2img(steps=50))))
    for item in work:
        if isinstance(item, NodeProgress) and item.step == 2:
            break
    work.close()
    assert bench.stages(bench.pack_for("tiny")).sessions.get("unet").runs == 4
    assert list(work) == []


def test_two_advanced_samplers_do_what_one_does(bench: Workbench) -> None:
    """Euler remembers nothing: stopping with the noise left in and going on makes the same picture."""
    data = txt2img(steps=4)
    whole = pixels(bench, data)
    common = {name: v for name, v in data["3"]["inputs"].items() if name not in ("seed", "denoise")}
    first = {
        "add_noise": "enable", "noise_seed": 7, "start_at_step": 0, "end_at_step": 2,
        "return_with_leftover_noise": "enable",
    }  # fmt: skip
    last = {
        "add_noise": "disable", "noise_seed": 0, "start_at_step": 2, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "latent_image": ["10", 0],
    }  # fmt: skip
    data["10"] = {"class_type": "KSamplerAdvanced", "inputs": {**common, **first}}
    data["3"] = {"class_type": "KSamplerAdvanced", "inputs": {**common, **last}}
    assert np.abs(pixels(bench, data).astype(int) - whole).max() <= 1
    data["3"]["inputs"]["start_at_step"] = 4  # nothing left to do: the noisy latents as they are
    assert np.abs(pixels(bench, data).astype(int) - whole).max() > 1


def test_repainting_runs_the_tail_of_a_longer_run(bench: Workbench) -> None:
    data = txt2img()
    data["11"] = {"class_type": "KSampler", "inputs": {**data["3"]["inputs"], "latent_image": ["3", 0]}}
    data["11"]["inputs"].update(denoise=0.5, steps=2, seed=1)
    data["8"]["inputs"]["samples"] = ["11", 0]
    items = run(bench, data)
    assert [p.steps for p in items if isinstance(p, NodeProgress) and p.node_id == "11"] == [0, 2, 2]
    repainted = np.stack(items[-1].shown.pixels)
    assert not np.array_equal(repainted, pixels(bench, txt2img()))
    data["11"]["inputs"]["denoise"] = 0
    assert np.array_equal(pixels(bench, data), pixels(bench, txt2img()))
    data["11"]["inputs"].update(denoise=0.001)
    with pytest.raises(BadWorkflow, match=r"node 11 \(KSampler\) steps: do not fit this denoise"):
        pixels(bench, data)


def test_a_batch_holds_the_noise_of_one_long_stream(bench: Workbench) -> None:
    data = txt2img()
    data["5"]["inputs"]["batch_size"] = 2
    both = pixels(bench, data)
    assert both.shape == (2, 64, 64, 3)
    assert np.array_equal(both[0], pixels(bench, txt2img())[0])
    assert not np.array_equal(both[0], both[1])


def conditioned(bench: Workbench, class_type: str, **inputs: Any) -> np.ndarray:
    data = txt2img()
    data["20"] = {"class_type": class_type, "inputs": inputs}
    data["3"]["inputs"]["positive"] = ["20", 0]
    return pixels(bench, data)


def test_conditionings_mixed(bench: Workbench) -> None:
    plain = pixels(bench, txt2img())
    same = {"conditioning_to": ["6", 0], "conditioning_from": ["7", 0]}
    assert np.array_equal(
        conditioned(bench, "ConditioningAverage", **same, conditioning_to_strength=1), plain
    )
    found = [
        conditioned(bench, "ConditioningAverage", **same, conditioning_to_strength=0.5),
        conditioned(bench, "ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["7", 0]),
        conditioned(bench, "ConditioningZeroOut", conditioning=["6", 0]),
        conditioned(bench, "CLIPTextEncode", text="a cat", clip=["4", 1]),
    ]
    assert len({picture.tobytes() for picture in [plain, *found]}) == 5
    twice = conditioned(bench, "ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["6", 0])
    assert np.abs(twice.astype(int) - plain).max() <= 1


def test_conditionings_one_after_the_other(bench: Workbench) -> None:
    one, other = (Encoding(np.full((1, 77, 8), k, np.float32)) for k in (0, 1))
    inputs = {"conditioning_to": [one, other], "conditioning_from": [other, one]}
    ((first, second),) = NODES["ConditioningConcat"].run(bench, **inputs)
    hidden = first.hidden
    found = hidden.shape, hidden[0, 76, 0], hidden[0, 77, 0], second.hidden.mean()
    assert found == ((1, 154, 8), 0, 1, 1)
    with pytest.raises(EngineError, match=r"graph unet failed.*Got: 154 Expected: 77"):
        conditioned(
            bench, "ConditioningConcat", conditioning_to=["6", 0], conditioning_from=["7", 0]
        )  # the tiny pack's graph takes 77 tokens and no more


def latents_through(bench: Workbench, class_type: str, **inputs: Any) -> np.ndarray:
    data = txt2img()
    data["20"] = {"class_type": class_type, "inputs": inputs}
    data["8"]["inputs"]["samples"] = ["20", 0]
    return pixels(bench, data)


def test_latents_moved_and_mixed(bench: Workbench) -> None:
    plain = pixels(bench, txt2img())
    by = latents_through(bench, "LatentUpscaleBy", samples=["3", 0], upscale_method="bicubic", scale_by=1.5)
    assert by.shape == (1, 96, 96, 3)
    size = {"upscale_method": "nearest-exact", "width": 128, "height": 0, "crop": "disabled"}
    assert latents_through(bench, "LatentUpscale", samples=["3", 0], **size).shape == (1, 128, 128, 3)
    same = {"samples1": ["3", 0], "samples2": ["5", 0]}
    assert np.array_equal(latents_through(bench, "LatentAdd", **same), plain)
    assert np.array_equal(latents_through(bench, "LatentBlend", **same, blend_factor=1), plain)
    assert np.array_equal(latents_through(bench, "LatentMultiply", samples=["3", 0], multiplier=1), plain)
    assert not np.array_equal(
        latents_through(bench, "LatentMultiply", samples=["3", 0], multiplier=0.5), plain
    )


def image_graph(class_type: str = "ImageInvert", name: str = "a.png", **inputs: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name, "upload": "image"}},
        "2": {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def test_pictures_read_and_moved(bench: Workbench) -> None:
    original = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(original).save(bench.input_dir / "a.png")
    theirs = np.clip(255.0 * (1 - original.astype(np.float32) / 255), 0, 255).astype(np.uint8)
    inverted = pixels(bench, image_graph())[0].astype(int)  # cut off, so that the last bits of floats show
    assert np.abs(inverted - theirs).max() <= 1
    assert set(np.unique(255 - original - inverted)) == {0, 1}
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos"):
        by = pixels(bench, image_graph("ImageScaleBy", upscale_method=method, scale_by=2.0))
        assert by.shape == (1, 48, 64, 3)
        size = {"upscale_method": method, "width": 16, "height": 16, "crop": "center"}
        assert pixels(bench, image_graph("ImageScale", **size)).shape == (1, 16, 16, 3)
    executor = Executor(bench)
    run(bench, image_graph(), executor)
    assert ran(run(bench, image_graph(), executor)) == ["3"]
    Image.fromarray(255 - original).save(bench.input_dir / "a.png")
    assert ran(run(bench, image_graph(), executor)) == ["1", "2", "3"]


def test_hostile_pictures_are_refused_before_they_are_decoded(bench: Workbench, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (bench.input_dir / "link.png").symlink_to(tmp_path / "outside.png")
    Image.new("RGB", (8, 8)).save(bench.input_dir / "gif.png", "GIF")
    (bench.input_dir / "text.png").write_text("hello")
    Image.new("1", (5000, 5000)).save(bench.input_dir / "bomb.png")
    for name, reason in {
        "../outside.png": "no picture of that name",
        "/etc/passwd": "no picture of that name",
        "link.png": "no picture of that name",
        "x\0.png": "no picture of that name",
        "gif.png": "must be a PNG, JPEG or WebP",
        "text.png": "must be a PNG, JPEG or WebP",
        "bomb.png": "5000x5000 pixels; at most 16777216",
    }.items():
        with pytest.raises(BadWorkflow, match=reason):
            check_for(bench, workflow_from(image_graph(name=name)))
    half = (bench.input_dir / "half.png").open("wb")
    Image.effect_noise((64, 64), 50).save(bench.input_dir / "whole.png")
    with half:
        half.write((bench.input_dir / "whole.png").read_bytes()[:1000])
    with pytest.raises(BadRequest, match=r"node 1 \(LoadImage\) image: cannot be decoded"):
        run(bench, image_graph(name="half.png"))


@pytest.mark.parametrize(
    ("node", "inputs", "said"),
    [
        ("4", {"ckpt_name": "tinny.safetensors"}, "stands for no pack here: did you mean 'tiny'"),
        ("4", {"ckpt_name": "lost.ckpt"}, "stands for pack 'gone'"),
        ("3", {"steps": 200}, "200 is not allowed here: 1 to 100 (limits.steps)"),
        ("3", {"sampler_name": "dpm_adaptive"}, "is none of those allowed: euler"),
        ("5", {"width": 512}, "512 is not allowed: 32 to 128 in steps of 16 with pack tiny"),
        ("5", {"height": 8192}, "8192 is not allowed here: at most 1024 (limits.side)"),
        ("5", {"batch_size": 17}, "17 is not allowed here: 1 to 16"),
        ("9", {"filename_prefix": "../../etc/x"}, "leads out of the output folder"),
        ("9", {"filename_prefix": "/etc/x"}, "leads out of the output folder"),
    ],
)
def test_what_this_device_cannot_do_is_said_before_anything_loads(bench, node, inputs, said: str) -> None:
    data = txt2img()
    data[node]["inputs"].update(inputs)
    with pytest.raises(BadWorkflow) as caught:
        check_for(bench, workflow_from(data))
    assert said in str(caught.value)
    json.dumps(caught.value.response())


def test_a_pack_that_cannot_encode_pictures_or_skip_layers(bench: Workbench) -> None:
    Image.new("RGB", (64, 64)).save(bench.input_dir / "a.png")
    data = txt2img()
    data["1"] = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    data["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["4", 2]}}
    data["2"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["4", 1], "stop_at_clip_layer": -2}}
    data["6"]["inputs"]["clip"] = ["2", 0]
    with pytest.raises(BadWorkflow) as caught:
        check_for(bench, workflow_from(data))
    assert "vae: pack tiny cannot encode pictures: it has no graph vae_encoder" in str(caught.value)
    assert set(caught.value.node_errors) == {"5"}


def test_a_prompt_with_too_many_tokens_names_its_node(bench: Workbench) -> None:
    data = txt2img()
    data["6"]["inputs"]["text"] = "1 2 3 4 5 6 7 8 9 " * 10
    with pytest.raises(BadWorkflow, match=r"node 6 \(CLIPTextEncode\) text: has 90 tokens; at most 75 fit"):
        run(bench, data)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "sd15_lora",
            [
                "node 10 (LoraLoader) lora_name: no LoRA of that name",
                "node 5 (EmptyLatentImage) width: 512 is not allowed",
                "node 5 (EmptyLatentImage) height: 512 is not allowed",
            ],
        ),
        (
            "sd15_img2img",
            [
                "node 10 (LoadImage) image: no picture of that name",
                "node 14 (CheckpointLoaderSimple) ckpt_name: stands for no pack here",
            ],
        ),
    ],
)
def test_the_verdict_on_workflows_from_elsewhere(bench: Workbench, name: str, said: list[str]) -> None:
    path = Path(__file__).parent.parent / "workflow" / "examples" / f"{name}.json"
    with pytest.raises(BadWorkflow) as caught:
        check_for(bench, parse_workflow(path.read_bytes()))
    assert len(caught.value.problems) == len(said)
    assert all(text in str(caught.value) for text in said)
