"""Pictures as CLIP sees them: the numbers of transformers' CLIPImageProcessor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from edgegen.diffusion.clippicture import clip_pixels
from edgegen.engine.clipvision import _bicubic


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(224, 224), (300, 300), (448, 224), (224, 672), (100, 50), (512, 768)])
def test_the_numbers_are_transformers_own(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    wanted = CLIPImageProcessorPil()(Image.fromarray(pixels), return_tensors="np").pixel_values
    found = clip_pixels(pixels, 224, "center", _bicubic)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-6


def test_the_longer_side_is_rounded_as_comfyui_does() -> None:
    """transformers cuts the fraction off: of 301x200 pixels one more column is left here, as in ComfyUI."""
    seen: list[tuple[int, int]] = []

    def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
        seen.append((width, height))
        return _bicubic(pixels, width, height)

    assert clip_pixels(picture(301, 200), 224, "center", resize).shape == (1, 3, 224, 224)
    assert clip_pixels(picture(301, 200), 224, "none", resize).shape == (1, 3, 224, 224)
    assert seen == [(337, 224), (224, 224)]


def test_other_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="known are center, none"):
        clip_pixels(picture(8, 8), 224, "top", _bicubic)
