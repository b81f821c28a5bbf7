from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from edgegen.engine.metadata import encode_picture, parameters_text
from edgegen.engine.recipe import parse_parameters, read_recipe
from edgegen.errors import BadRequest
from tests.engine.test_metadata import PICTURE, SETTINGS

FOREIGN = """a (red:1.2) apple, "quoted: yes"
on two lines
Negative prompt: blurry, Steps: many
dark
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 123, Size: 512x768, Model hash: abc, \
Lora hashes: "x: 1, y: 2", Version: v1.9"""


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
def test_our_own_pictures_tell_all(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode_picture(PICTURE, file_format))
    recipe = read_recipe(path)
    assert recipe == {
        "prompt": SETTINGS.prompt,
        "negative_prompt": SETTINGS.negative_prompt,
        "seed": SETTINGS.seed,
        "steps": SETTINGS.steps,
        "guidance": SETTINGS.guidance,
        "width": SETTINGS.width,
        "height": SETTINGS.height,
        "sampler": SETTINGS.sampler,
        "pack": "tiny",
        "prompt_syntax": "comfyui",
    }


def test_the_web_uis_text() -> None:
    assert parse_parameters(FOREIGN) == {
        "prompt": 'a (red:1.2) apple, "quoted: yes"\non two lines',
        "negative_prompt": "blurry, Steps: many\ndark",
        "seed": 123,
        "steps": 20,
        "guidance": 7.5,
        "width": 512,
        "height": 768,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "prompt_syntax": "a1111",
    }


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg"])
def test_a_picture_of_the_web_ui(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "a"
    picture = Image.new("RGB", (4, 4))
    if file_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", FOREIGN)
        picture.save(path, "PNG", pnginfo=info)
    else:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + FOREIGN.encode("utf-16-be")
        picture.save(path, file_format, exif=exif)
    assert read_recipe(path) == parse_parameters(FOREIGN)


def test_our_own_text_reads_back_without_our_chunk() -> None:
    recipe = parse_parameters(parameters_text(PICTURE))
    assert recipe["prompt"] == SETTINGS.prompt
    assert recipe["sampler"] == SETTINGS.sampler
    assert "pack" not in recipe


def test_the_schedule_has_a_name_of_its_own() -> None:
    scheduled = replace(PICTURE, settings=replace(SETTINGS, sampler="uni_pc", schedule="sgm_uniform"))
    recipe = parse_parameters(parameters_text(scheduled))
    assert (recipe["sampler"], recipe["schedule"]) == ("uni_pc", "sgm_uniform")


def test_unknown_samplers_and_odd_numbers_are_left_out() -> None:
    odd = "a\nSteps: 20, Sampler: Restart, CFG scale: nan, Seed: -1, Size: 5, Seed resize from: 3x3"
    assert parse_parameters(odd) == {"prompt": "a", "steps": 20, "width": 5, "prompt_syntax": "a1111"}


@given(st.text())
def test_any_prompt_survives_or_is_cut_at_our_own_marks(prompt: str) -> None:
    text = parameters_text(replace(PICTURE, settings=replace(SETTINGS, prompt=prompt)))
    recipe = parse_parameters(text)
    assert recipe["seed"] == SETTINGS.seed
    if "Negative prompt:" not in prompt and "Steps:" not in prompt:
        assert recipe.get("prompt", "") == prompt.strip()


@given(st.text())
def test_junk_is_no_recipe_and_no_crash(text: str) -> None:
    assert parse_parameters(text) == {} or "Steps: " in text


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_tells_nothing_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=r"x\.png tells no prompt"):
        read_recipe(path)
    with pytest.raises(BadRequest, match=r"none\.png tells no prompt"):
        read_recipe(tmp_path / "none.png")


def test_a_workflows_picture_has_no_single_prompt(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("edgegen", '{"seed": 1}')
    info.add_text("prompt", '{"3": {"class_type": "KSampler", "inputs": {}}}')
    Image.new("RGB", (4, 4)).save(tmp_path / "w.png", pnginfo=info)
    with pytest.raises(BadRequest, match="or a workflow's"):
        read_recipe(tmp_path / "w.png")
