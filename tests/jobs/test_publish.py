"""Pictures made to fit a message."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgegen.errors import StorageError
from edgegen.jobs.publish import encode_for_publish


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.png"
    pixels = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("format", ["webp", "jpeg", "png"])
@pytest.mark.parametrize("max_bytes", [1_000_000, 10_000, 1500])
def test_it_fits(noisy, format, max_bytes):
    data = encode_for_publish(noisy, format, max_bytes)
    assert len(data) <= max_bytes
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format.upper()
        assert image.width * 2 == image.height * 3
        assert image.size == (192, 128) or max_bytes < 100_000


def test_it_cannot_fit(noisy):
    with pytest.raises(StorageError, match="does not fit 50 bytes as png"):
        encode_for_publish(noisy, "png", 50)


@pytest.mark.parametrize("data", [b"", b"no picture", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_what_is_no_picture_of_ours(tmp_path, data):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="no picture that can be read"):
        encode_for_publish(path, "webp", 1000)
