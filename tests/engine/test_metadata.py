from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.metadata import describe, encode_picture, parameters_text, read_metadata, save_picture
from edgegen.engine.pipeline import GenerationSettings, Picture
from edgegen.errors import StorageError

SETTINGS = GenerationSettings(
    'ein "roter" Äpfel 🍎\\', "日本", 4_000_000_000, 4, 1.5, 32, 16, "euler_ancestral"
)
PIXELS = np.arange(32 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 32, 3)
PICTURE = Picture(PIXELS, SETTINGS, 1.23456, "cpu", "tiny")


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "jpeg"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save_picture(PICTURE, path)
    found = read_metadata(path)
    assert found == describe(PICTURE)
    fields = {k: found[k] for k in SETTINGS.__dataclass_fields__ if k != "loras"}
    assert GenerationSettings(**fields) == SETTINGS
    assert found["pack"] == "tiny"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_png_keeps_every_pixel_and_carries_parameters(tmp_path: Path) -> None:
    save_picture(PICTURE, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert image.info["parameters"] == parameters_text(PICTURE)


def test_parameters_text() -> None:
    lines = parameters_text(PICTURE).splitlines()
    assert lines[:2] == [SETTINGS.prompt, "Negative prompt: 日本"]
    assert lines[2].startswith(
        "Steps: 4, Sampler: Euler a, CFG scale: 1.5, Seed: 4000000000, Size: 32x16, Model: tiny, Version: "
    )
    assert (
        len(parameters_text(replace(PICTURE, settings=replace(SETTINGS, negative_prompt=""))).splitlines())
        == 2
    )


def test_a_schedule_is_named_as_the_web_ui_names_it() -> None:
    picture = replace(PICTURE, settings=replace(SETTINGS, schedule="sgm_uniform"))
    assert "Sampler: Euler a, Schedule type: SGM Uniform, CFG scale: 1.5" in parameters_text(picture)
    assert describe(picture)["schedule"] == "sgm_uniform"


def test_the_format_may_be_named(tmp_path: Path) -> None:
    save_picture(PICTURE, tmp_path / "a.tmp", "webp")
    with Image.open(tmp_path / "a.tmp") as image:
        assert image.format == "WEBP"
    with pytest.raises(ValueError, match="'gif'; known are png, webp, jpeg"):
        encode_picture(PICTURE, "gif")


def test_what_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*No such file"):
        save_picture(PICTURE, tmp_path / "none" / "a.png")
    with pytest.raises(StorageError, match=r"must end in \.png"):
        save_picture(PICTURE, tmp_path / "a.bmp")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        save_picture(PICTURE, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["b.png"]


def test_an_old_picture_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    inode = path.stat().st_ino
    save_picture(PICTURE, path)
    assert path.stat().st_ino != inode
    assert read_metadata(path) is not None


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50)])
def test_what_is_no_picture_has_no_metadata(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert read_metadata(path) is None
    assert read_metadata(tmp_path / "none.png") is None


def test_a_picture_of_somebody_else_has_no_metadata(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    assert read_metadata(tmp_path / "x.png") is None


def test_hostile_text_has_no_metadata(tmp_path: Path) -> None:
    from PIL import PngImagePlugin

    for k, text in enumerate(["{", "[1]", "[" * 100_000]):
        info = PngImagePlugin.PngInfo()
        info.add_text("edgegen", text)
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}.png", pnginfo=info)
        assert read_metadata(tmp_path / f"{k}.png") is None
