"""Previews of real packs, and the file that holds the newest one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.engine.pipeline import Picture, TextToImage, resolve_settings
from edgegen.engine.preview import PreviewFile, encode_preview, manifest_factors
from edgegen.errors import PackError, StorageError
from edgegen.jobs.job import JobRequest
from edgegen.pack import Pack, builtin_packs_dir
from edgegen.settings import LimitSettings


def test_the_last_preview_of_the_builtin_pack_looks_like_the_picture() -> None:
    pack = Pack.open(builtin_packs_dir() / "pocket")
    request = JobRequest("a", "a red apple on a blue background", seed=3)
    with TextToImage(pack, "cpu", 1) as engine:
        *steps, picture = engine.generate(resolve_settings(pack, request, LimitSettings()))
    assert isinstance(picture, Picture)
    small = Image.fromarray(picture.pixels).resize((16, 16), Image.Resampling.BOX)
    errors = []
    for step in steps[1:]:
        image = Image.open(io.BytesIO(encode_preview(step.denoised, pack.manifest)))
        assert (image.format, image.size) == ("JPEG", (256, 256))
        shrunk = np.asarray(image.resize((16, 16), Image.Resampling.BOX), float)
        errors.append(np.abs(shrunk - np.asarray(small, float)).mean())
    assert errors[-1] < 12
    assert errors[0] > errors[-1], "the first step knows less"
    assert encode_preview(steps[0].denoised, pack.manifest) is None, "nothing is done yet"


def test_a_pack_without_factors_has_no_preview(changed_tiny) -> None:
    pack = changed_tiny(family="unheard-of")
    assert manifest_factors(pack.manifest) is None
    assert encode_preview(np.zeros((1, 4, 8, 8), np.float32), pack.manifest) is None


def test_a_packs_own_factors_win_and_must_fit_its_channels(changed_tiny) -> None:
    own = {"factors": [[0.0, 0.0, 0.0]] * 4, "bias": [1.0, -1.0, 0.0]}
    pack = changed_tiny(latent_rgb=own)
    image = Image.open(io.BytesIO(encode_preview(np.ones((1, 4, 8, 4), np.float32), pack.manifest, "png")))
    assert (image.size, image.getpixel((0, 0))) == ((32, 64), (255, 0, 128))
    with pytest.raises(PackError, match=r"latent_rgb: .*has 3 factors"):
        changed_tiny(latent_rgb={**own, "factors": own["factors"][:3]})


def test_the_file_always_holds_a_whole_picture(tiny: Pack, tmp_path: Path) -> None:
    file = PreviewFile(tmp_path / "now.webp")
    file.show(None, tiny.manifest)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        file.show(np.ones((1, 4, 8, 8), np.float32), tiny.manifest)
        assert [path.name for path in tmp_path.iterdir()] == ["now.webp"]
        assert Image.open(tmp_path / "now.webp").format == "WEBP"
    with pytest.raises(StorageError, match="must end in"):
        PreviewFile(tmp_path / "now.gif")
    with pytest.raises(StorageError, match="cannot write"):
        PreviewFile(tmp_path / "lost" / "now.png").show(np.ones((1, 4, 8, 8)), tiny.manifest)
