"""Pictures made to fit a message."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgegen.errors import StorageError
from edgegen.jobs.database import Database
from edgegen.jobs.outbox import OutboxReader
from edgegen.jobs.publish import encode_for_publish
from edgegen.jobs.worker import publish_copier
from edgegen.settings import MqttSettings


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


def test_a_copy_is_as_small_as_we_and_the_broker_want(noisy, tmp_path):
    database = Database(tmp_path / "edgegen.db")
    copy = publish_copier(MqttSettings(image_format="jpeg", image_max_bytes=20_000), database)
    reader = OutboxReader(database)
    sizes = []
    for room in (None, 3000, 1_000_000, None):
        reader.note_picture_room(room)
        data, suffix = copy(noisy)
        sizes.append(len(data))
        assert suffix == ".jpg"
    assert sizes[1] <= 3000 < sizes[0] <= 20_000
    assert sizes[0] == sizes[2] == sizes[3]
    database.close()
