"""Record what kornia's Canny filter finds: `PYTHONPATH=KORNIA python tests/diffusion/make_golden_canny.py`.

kornia 0.7.4 is what was recorded; it needs PyTorch. The picture is scikit-image's astronaut, a part of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from kornia.filters import canny

OUT = Path(__file__).parent / "golden_canny.npz"
PART = slice(60, 156), slice(180, 276)
THRESHOLDS = ((0.4, 0.8), (0.1, 0.2), (0.05, 0.99), (0.3, 0.3))


def main() -> None:
    pixels = skimage.data.astronaut()[PART]
    picture = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = {f"{low}-{high}": canny(picture, low, high)[1][0, 0].numpy() > 0 for low, high in THRESHOLDS}
    packed = {name: np.packbits(edges) for name, edges in found.items()}
    np.savez_compressed(OUT, pixels=pixels, **packed)
    print({name: int(edges.sum()) for name, edges in found.items()}, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
