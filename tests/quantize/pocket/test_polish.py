import numpy as np
import pytest
import torch

from quantize.pocket.autoencoder import DOWNSCALE, LATENT_CHANNELS
from quantize.pocket.captions import colours_seen
from quantize.pocket.data import composite, emoji_list
from quantize.pocket.drawing import SIDE, build_scheduler
from quantize.pocket.palette import BACKGROUNDS
from quantize.pocket.polish import WINDOW, Pairs, like_their_own


def test_what_the_denoiser_got_wrong_is_left_out():
    true = np.random.default_rng(0).standard_normal((3, LATENT_CHANNELS, SIDE, SIDE))
    drawn = true.copy()
    drawn[1] += 0.3 * np.random.default_rng(1).standard_normal(true[1].shape)
    drawn[2] = np.roll(true, 1, axis=0)[2]
    assert like_their_own(drawn, true).tolist() == [True, True, False]


@pytest.fixture
def pairs() -> Pairs:
    """Latents whose first two channels say where they are, of pictures whose red and green do so as well."""
    where = np.zeros((1, LATENT_CHANNELS, SIDE, SIDE), np.float32)
    where[0, :2] = np.indices((SIDE, SIDE))
    side = SIDE * DOWNSCALE
    rgba = np.full((2, side, side, 4), 255, np.uint8)
    rgba[..., 0], rgba[..., 1] = np.indices((side, side))
    encoded = np.repeat(np.repeat(where[None], 2, axis=0), 6, axis=1).astype(np.float16)
    return Pairs(where, np.array([(1, 2)]), encoded, rgba, seed=0)


def test_windows_of_latents_and_pixels_show_the_same_place(pairs):
    latents, pixels = pairs.some(24)
    assert latents.shape == (24, LATENT_CHANNELS, WINDOW, WINDOW)
    assert pixels.shape == (24, 3, WINDOW * DOWNSCALE, WINDOW * DOWNSCALE)
    corners = (pixels[:, :2, 0, 0] + 1) * 127.5 / DOWNSCALE
    assert torch.allclose(latents[:, :2, 0, 0], corners, atol=0.7)  # half of them are noised
    assert len({tuple(c) for c in corners.round().int().tolist()}) > 5


def test_pictures_lie_on_the_colour_their_caption_names():
    emoji = emoji_list()[0]
    clear = np.zeros((1, 256, 256, 4), np.uint8)
    drawn = np.zeros((1, LATENT_CHANNELS, SIDE, SIDE), np.float32)
    only_last = np.zeros((1, 1, LATENT_CHANNELS, SIDE, SIDE), np.float16)
    _, pixels = Pairs(drawn, np.array([(0, 4)]), only_last, clear, seed=0).some(16)
    named = {tuple(composite(clear[0, 0, 0], BACKGROUNDS[colours_seen(emoji)[c]])) for c in (0, 4)}
    assert {tuple(p.numpy()) for p in pixels[:, :, 9, 9]} == named


def test_the_noisiest_step_is_pure_noise():
    assert build_scheduler().alphas_cumprod[-1] == pytest.approx(0, abs=1e-9)
