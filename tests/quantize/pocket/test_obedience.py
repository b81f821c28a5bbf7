import numpy as np
import pytest
from PIL import Image

from quantize.pocket.data import Emoji, composite
from quantize.pocket.obedience import border_mean, colour_error, judge, summary
from quantize.pocket.palette import BACKGROUNDS


def blob(kind: int) -> np.ndarray:
    """(256, 256, 4) uint8: one of a few shapes of its own colour, transparent around."""
    out = np.zeros((256, 256, 4), np.uint8)
    out[60 + 20 * kind : 130 + 20 * kind, 60:190] = (40 * kind, 255 - 40 * kind, 90, 255)
    return out


EMOJIS = [Emoji(f"{k}.webp", f"thing {k}", (), "objects") for k in range(5)]
RGBA = np.stack([blob(k) for k in range(5)])


def picture(k: int, colour: str) -> np.ndarray:
    return ((composite(RGBA[k], BACKGROUNDS[colour]) + 1) * 127.5).round().astype(np.uint8)


def test_the_right_picture_on_the_right_colour_ranks_first():
    def draw(caption: str, seed: int) -> np.ndarray:
        thing, colour = caption.removesuffix(" background").split(" on a ")
        noise = np.random.default_rng(seed).integers(-9, 10, (256, 256, 3))
        clean = picture(int(thing.split()[1]), colour).astype(int)
        return np.clip(clean + noise, 0, 255).astype(np.uint8)

    verdicts, pictures = judge(draw, RGBA, EMOJIS, count=5)
    assert summary(verdicts) == {"nearest": 100, "among_five": 100, "background": 100}
    assert all(p.shape == (256, 256, 3) for p in pictures)


def test_the_wrong_thing_and_the_wrong_colour_are_noticed():
    def draw(caption: str, seed: int) -> np.ndarray:
        wrong = (int(caption.split()[1]) + 1) % 5
        return picture(wrong, "navy" if "cream" in caption else "cream")

    verdicts, _ = judge(draw, RGBA, EMOJIS, count=5)
    assert summary(verdicts)["nearest"] == 0
    assert summary(verdicts)["background"] == 0


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_every_named_colour_is_told_from_all_others(name):
    plain = np.full((256, 256, 3), BACKGROUNDS[name], np.uint8)
    assert colour_error(plain, BACKGROUNDS[name]) < 0.01
    for other, colour in BACKGROUNDS.items():
        if other != name:
            assert colour_error(plain, colour) > 12, other


def test_the_border_is_the_outermost_six_pixels():
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:6] = pixels[-6:] = 200
    pixels[:, :6] = pixels[:, -6:] = 200
    assert border_mean(pixels) == pytest.approx([200, 200, 200])


def test_colour_error_is_ciede2000():
    # Sharma et al. 2005, table 1, pair 17: Lab (50, 2.5, 0) and (73, 25, -18) are 27.1492 apart
    from skimage.color import deltaE_ciede2000

    assert deltaE_ciede2000([50, 2.5, 0], [73, 25, -18]) == pytest.approx(27.1492, abs=1e-4)


def test_thumbnails_average():
    from quantize.pocket.obedience import thumbnails

    checks = np.indices((256, 256)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert Image.fromarray(pixels).size == (256, 256)
    assert np.abs(thumbnails(pixels[None]) - 127.5).max() <= 1
