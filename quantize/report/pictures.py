"""Which pictures a report shows, and how they get into a page: small WebP files as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..metrics import psnr_db, ssim
from .data import PictureRow, Shown

WORST, OTHERS = 8, 4
SIDE = 320  # pixels at most: what a page shows side by side
QUALITY = 80
GAIN = 8


def picture_rows(
    prompts: Sequence[str], seed: int, reference: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> tuple[list[PictureRow], list[Shown]]:
    """Figures of all pictures, worst SSIM first, and the pictures of some: the worst and a few of the rest.

    Args:
        seed: of the first picture; each next has the next.
        reference, got: (h, w, 3) uint8 each, as many as prompts.
    """
    rows = [
        PictureRow(prompt=prompt, seed=seed + i, ssim=round(ssim(a, b), 4), psnr_db=round(psnr_db(a, b), 2))
        for i, (prompt, a, b) in enumerate(zip(prompts, reference, got, strict=True))
    ]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].ssim, rows[i].psnr_db))
    shown = [_shown(place, reference[order[place]], got[order[place]]) for place in places(len(rows))]
    return [rows[i] for i in order], shown


def places(count: int) -> list[int]:
    """Ranks to show, of `count` sorted from worst to best: the worst, then an even spread up to the best."""
    worst = list(range(min(WORST, count)))
    rest = count - len(worst)
    steps = min(OTHERS, rest)
    return worst + [len(worst) + rest * (i + 1) // steps - 1 for i in range(steps)]


def difference(reference: np.ndarray, got: np.ndarray, gain: int = GAIN) -> np.ndarray:
    """|reference - got| times `gain`, channel by channel, (h, w, 3) uint8; black where they are equal."""
    apart = np.abs(reference.astype(np.int32) - got) * gain
    return np.minimum(apart, 255).astype(np.uint8)


def data_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """(h, w, 3) uint8 as a WebP data URI, no side longer than `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown(row: int, reference: np.ndarray, got: np.ndarray) -> Shown:
    apart = difference(reference, got)
    return Shown(row=row, reference=data_uri(reference), pack=data_uri(got), difference=data_uri(apart))
