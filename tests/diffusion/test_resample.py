from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.resample import METHODS, crop_to_shape, resample

BICUBIC_8 = [-0.10546875, 0.19140625, 0.66796875, 1.296875, 1.703125, 2.33203125, 2.80859375, 3.10546875]
RAMP = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)


@pytest.mark.parametrize(
    ("method", "width", "wanted"),
    [  # what torch.nn.functional.interpolate(RAMP, size=(1, width), mode=method) gives
        ("nearest-exact", 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("nearest-exact", 2, [1, 3]),
        ("nearest-exact", 3, [0, 2, 3]),
        ("bilinear", 8, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]),
        ("bilinear", 2, [0.5, 2.5]),
        ("area", 2, [0.5, 2.5]),
        ("area", 3, [0.5, 1.5, 2.5]),
        ("bicubic", 8, BICUBIC_8),
        ("bicubic", 2, [0.40625, 2.59375]),
    ],
)
def test_as_torch(method: str, width: int, wanted: list[float]) -> None:
    assert np.allclose(resample(RAMP, width, 1, method)[0, 0, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_the_same_picture_and_axes_keep_their_places(method: str) -> None:
    picture = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    assert np.allclose(resample(picture, 7, 5, method), picture, atol=1e-6)
    assert resample(picture, 9, 4, method).shape == (2, 3, 4, 9)
    assert np.allclose(resample(np.ones((1, 1, 5, 7)), 13, 3, method), 1)


def test_what_makes_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="method is 'bislerp'; known are nearest-exact"):
        resample(RAMP, 2, 2, "bislerp")
    with pytest.raises(ValueError, match="0x2 has no pixels"):
        resample(RAMP, 0, 2, "area")


def test_the_middle_in_other_proportions() -> None:
    wide = np.arange(8.0).reshape(1, 1, 1, 8).repeat(4, axis=2)
    assert crop_to_shape(wide, 1, 1)[0, 0, 0].tolist() == [2, 3, 4, 5]
    assert crop_to_shape(wide.transpose(0, 1, 3, 2), 10, 10).shape == (1, 1, 4, 4)
    assert crop_to_shape(wide, 16, 8).shape == wide.shape
