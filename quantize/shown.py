"""What an IP-Adapter tells the denoiser while INT8 ranges are recorded.

Tokens end in a LayerNorm, so that their size hardly depends on the picture: noise in place of what an image
encoder would give is enough to learn the ranges of keys and values, and what they do behind the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from edgegen.pack import IpLayer

from .imageprompt import KEYS, MASK, VALUES
from .ipadapters import IpAdapterLayout, find_ip_adapter
from .ipmodules import load_ip_adapter
from .refusal import SourceError
from .runner import Feeds

ROWS = 257  # of CLIP ViT-H and ViT-L at 224 pixels: 16 x 16 patches and one more
Shown = Callable[[int], tuple[Feeds, Feeds]]
"""Number of a picture -> what both sides of guidance are told beside its words."""


def open_adapter(file: Path) -> IpAdapterLayout:
    """Raises SourceError: the file is no IP-Adapter that is read."""
    layout = find_ip_adapter(file)
    if layout is None:
        raise SourceError(f"{file} is no IP-Adapter: a .safetensors file with image_proj and ip_adapter")
    return layout


def shown_by(file: Path, layers: Sequence[IpLayer], seed: int) -> Shown:
    """Every second picture, from the first on, is made with something to look at; to the others zeros say
    nothing.

    Raises:
        SourceError: the adapter is for another denoiser.
    """
    layout = open_adapter(file)
    channels = tuple(layer.channels for layer in layers)
    if layout.channels != channels:
        raise SourceError(
            f"{file} is for another denoiser: it speaks to {len(layout.channels)} layers of "
            f"{sum(layout.channels)} channels, this one has {len(channels)} of {sum(channels)}"
        )
    adapter = load_ip_adapter(file, layout)
    rng = np.random.default_rng(seed)
    everywhere = {f"{MASK}_{layer.level}": np.ones((1, 1, 1), np.float32) for layer in layers}
    shape = (1, ROWS, layout.reads_width) if layout.reads == "hidden_states" else (1, layout.reads_width)

    def tell(image: np.ndarray) -> Feeds:
        with torch.no_grad():
            keys, values = adapter(torch.from_numpy(image))
        return {KEYS: keys.numpy(), VALUES: values.numpy()} | everywhere

    def shown(number: int) -> tuple[Feeds, Feeds]:
        wanted = tell(rng.standard_normal(shape, np.float32))
        unwanted = tell(np.zeros(shape, np.float32))
        if number % 2 == 0:
            return wanted, unwanted
        nothing = {name: np.zeros_like(wanted[name]) for name in (KEYS, VALUES)} | everywhere
        return nothing, nothing

    return shown
