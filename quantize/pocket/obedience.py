"""Does a picture show what was asked? Nearest training picture, and colour of the border."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from .captions import colours_seen, judged_caption
from .data import Emoji, composite
from .palette import BACKGROUNDS

THUMB = 32
BORDER = 6  # pixels of the frame whose mean colour counts as the background
NEAR_ENOUGH = 12.0  # CIEDE2000


@dataclass(frozen=True)
class Verdict:
    """How one picture did.

    Attributes:
        rank: place of the asked emoji among all training pictures by distance, 1 is nearest.
        nearest: label of the nearest training picture.
        colour_error: CIEDE2000 between the asked background and the border's mean.
    """

    caption: str
    rank: int
    nearest: str
    colour_error: float


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """(n, 256, 256, 3) uint8 -> (n, 32 * 32 * 3) float32, by area."""
    small = [Image.fromarray(p).resize((THUMB, THUMB), Image.Resampling.BOX) for p in pixels]
    return np.stack([np.asarray(s, np.float32) for s in small]).reshape(len(small), -1)


def border_mean(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (3,) mean of the outermost BORDER pixels."""
    frame = np.ones(pixels.shape[:2], bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    return pixels[frame].mean(axis=0)


def colour_error(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    """CIEDE2000 between the border's mean and a colour (Sharma et al. 2005)."""
    got, want = (rgb2lab(np.asarray(c, float).reshape(1, 1, 3) / 255) for c in (border_mean(pixels), colour))
    return float(deltaE_ciede2000(got, want)[0, 0])


def judged_pairs(emojis: list[Emoji], count: int, seed: int = 2024) -> list[tuple[int, str]]:
    """A fixed random choice of (emoji index, background) that were trained on."""
    rng = random.Random(seed)
    chosen = rng.sample(range(len(emojis)), count)
    return [(i, rng.choice(colours_seen(emojis[i]))) for i in chosen]


def judge(
    draw: Callable[[str, int], np.ndarray], rgba: np.ndarray, emojis: list[Emoji], count: int = 100
) -> tuple[list[Verdict], list[np.ndarray]]:
    """Draw `count` captions and rank every training picture, put on the asked colour, by distance.

    Args:
        draw: (caption, seed) -> (256, 256, 3) uint8.
        rgba: (n, 256, 256, 4) uint8, the training pictures.
    """
    small = np.stack(
        [np.asarray(Image.fromarray(p).resize((THUMB, THUMB), Image.Resampling.BOX)) for p in rgba]
    )
    verdicts, pictures = [], []
    for k, (i, colour) in enumerate(judged_pairs(emojis, count)):
        pixels = draw(judged_caption(emojis[i], colour), 1_000_000 + k)
        candidates = ((composite(small, BACKGROUNDS[colour]) + 1) * 127.5).reshape(len(emojis), -1)
        distance = np.square(candidates - thumbnails(pixels[None])).sum(axis=1)
        order = np.argsort(distance)
        rank = int(np.flatnonzero(order == i)[0]) + 1
        error = colour_error(pixels, BACKGROUNDS[colour])
        verdicts.append(Verdict(judged_caption(emojis[i], colour), rank, emojis[order[0]].label, error))
        pictures.append(pixels)
    return verdicts, pictures


def summary(verdicts: list[Verdict]) -> dict[str, float]:
    """The three figures, as counts scaled to 100 captions."""
    n = len(verdicts) / 100
    return {
        "nearest": sum(v.rank == 1 for v in verdicts) / n,
        "among_five": sum(v.rank <= 5 for v in verdicts) / n,
        "background": sum(v.colour_error <= NEAR_ENOUGH for v in verdicts) / n,
    }
