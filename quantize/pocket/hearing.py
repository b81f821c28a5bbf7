"""Does the denoiser hear the name of the thing? Its error with the right name, another one, and no words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from .captions import colours_seen, judged_caption
from .data import Emoji

NOISIEST = 999
PROBES = 48


@torch.no_grad()
def hearing(
    velocity: Callable[[torch.Tensor, int, list[str]], torch.Tensor],
    scheduler: DDIMScheduler,
    emojis: list[Emoji],
    latents: np.ndarray,
    course: np.ndarray,
) -> tuple[float, float, float]:
    """Mean squared error of the velocity at pure noise, where words alone decide.

    Args:
        velocity: (noisy latents (n, c, h, w), timestep, n captions) -> predicted velocity.
        latents: (emojis, colours, c, h, w), scaled.
        course: indices of the emoji that are taught.
    Returns:
        With the right captions, with another thing's name on the same colour, and with empty ones. Right and
        wrong alike mean that things are not heard at all.
    """
    rng = np.random.default_rng(0)
    which = rng.choice(course, min(PROBES, len(course)), replace=False)
    colours = rng.integers(latents.shape[1], size=len(which))
    clean = torch.from_numpy(latents[which, colours].astype(np.float32))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    signal = scheduler.alphas_cumprod[NOISIEST].float()
    root_signal, root_noise = signal.sqrt(), (1 - signal).sqrt()
    want = root_noise * -clean + root_signal * noise
    noisy = root_signal * clean + root_noise * noise
    named = [colours_seen(emojis[i])[c] for i, c in zip(which, colours, strict=True)]
    right = [judged_caption(emojis[i], name) for i, name in zip(which, named, strict=True)]
    wrong = [judged_caption(emojis[i], name) for i, name in zip(np.roll(which, 1), named, strict=True)]
    empty = [""] * len(which)
    first, second, third = (
        F.mse_loss(velocity(noisy, NOISIEST, c), want).item() for c in (right, wrong, empty)
    )
    return first, second, third
