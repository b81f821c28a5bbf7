"""Contact sheets: many pictures with their words below, on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LINE, _FONT_SIZE = 12, 17, 14


def contact_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4, cell: int = 256
) -> Image.Image:
    """Pictures in rows on white.

    Args:
        pictures: (h, w, 3) uint8 each; drawn at `cell` x `cell` pixels.
        captions: as many; lines that are too long wrap, three lines fit.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures, but {len(captions)} captions")
    row_height = cell + 3 * _LINE + _GAP
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (_GAP + columns * (cell + _GAP), _GAP + rows * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for k, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _GAP + k % columns * (cell + _GAP), _GAP + k // columns * row_height
        sheet.paste(Image.fromarray(pixels).resize((cell, cell)), (x, y))
        lines = [part for line in caption.split("\n") for part in textwrap.wrap(line, cell // 8)]
        for n, line in enumerate(lines[:3]):
            draw.text((x, y + cell + 3 + n * _LINE), line, "black" if n == 0 else "dimgray", font)
    return sheet
