"""Polish the decoder on what the denoiser really makes: it learns to clean up the denoiser's habits.

A caption of the course has one right picture, so latents drawn from it have one as well. The encoder, and
with it every latent already made, stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel

from .autoencoder import DOWNSCALE, LATENT_NOISE, reconstruction_loss
from .captions import colours_seen, judged_caption
from .data import Emoji, composite, emoji_list, load_rgba, taught
from .drawing import SIDE, Words, denoise
from .pace import set_pace
from .palette import BACKGROUNDS
from .precision import mixed_precision

WINDOW = 8  # side of a training crop, in latents
LIKE_ENOUGH = 0.5  # relative squared error: beyond it the denoiser drew something else


def drawn_latents(
    words: Words, unet: torch.nn.Module, emojis: list[Emoji], pairs: np.ndarray, seed: int, batch: int = 32
) -> Iterator[np.ndarray]:
    """Latents (n, 16, 16, 16) float32 that the denoiser makes of (emoji, colour) index pairs (n, 2)."""
    for at in range(0, len(pairs), batch):
        texts = [judged_caption(emojis[i], colours_seen(emojis[i])[c]) for i, c in pairs[at : at + batch]]
        yield denoise(words, unet, texts, seed + at).numpy()


def like_their_own(drawn: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(n,) bool: which drawn latents are near the encoded picture of their caption; both (n, c, h, w)."""
    off = np.square(drawn - true).sum(axis=(1, 2, 3))
    return off < LIKE_ENOUGH * np.square(true).sum(axis=(1, 2, 3))


class Pairs:
    """Latents, drawn or encoded, and the pictures they stand for.

    Args:
        drawn: (n, c, h, w) float32 scaled latents of `drawn_pairs` (n, 2), indices of emoji and colour.
        encoded: (emojis, colours, c, h, w) float16 scaled latents of everything.
        rgba: (emojis, 256, 256, 4) uint8.
    """

    def __init__(
        self, drawn: np.ndarray, drawn_pairs: np.ndarray, encoded: np.ndarray, rgba: np.ndarray, seed: int
    ):
        self._drawn, self._drawn_pairs = drawn, drawn_pairs
        self._encoded, self._rgba, self._emojis = encoded, rgba, emoji_list()
        self._rng = np.random.default_rng(seed)

    def some(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows: latents (count, c, 8, 8) and pixels (count, 3, 128, 128) in [-1, 1]."""
        latents, pixels = zip(*[self._one() for _ in range(count)], strict=True)
        return torch.from_numpy(np.stack(latents)), torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)

    def _one(self) -> tuple[np.ndarray, np.ndarray]:
        """Half of them as drawn; half encoded, with noise, so that nothing already known is forgotten."""
        if self._rng.random() < 0.5:
            k = self._rng.integers(len(self._drawn))
            (i, c), latents = self._drawn_pairs[k], self._drawn[k]
        else:
            i, c = self._rng.integers(len(self._encoded)), self._rng.integers(self._encoded.shape[1])
            exact = self._encoded[i, c].astype(np.float32)
            latents = exact + LATENT_NOISE * self._rng.standard_normal(exact.shape, np.float32)
        y, x = self._rng.integers(0, SIDE - WINDOW + 1, 2)
        top, left, size = y * DOWNSCALE, x * DOWNSCALE, WINDOW * DOWNSCALE
        crop = self._rgba[i, top : top + size, left : left + size]
        colour = BACKGROUNDS[colours_seen(self._emojis[i])[c]]
        return latents[:, y : y + WINDOW, x : x + WINDOW], composite(crop, colour)


def pairs_for(work: Path, things: str, seeds: int = 3) -> Pairs:
    """Draw every taught thing on every background it was taught on, `seeds` times, and keep what is right."""
    emojis, encoded = emoji_list(), np.load(work / "latents.npy")
    words = Words.load(work / "checkpoint")
    unet = UNet2DConditionModel.from_pretrained(work / "checkpoint" / "unet").eval()
    unet.to(memory_format=torch.channels_last)
    pairs = np.array([(i, c) for i in taught(emojis, things) for c in range(encoded.shape[1])] * seeds)
    drawn = np.empty((len(pairs), *encoded.shape[2:]), np.float32)
    done = 0
    for some in drawn_latents(words, unet, emojis, pairs, seed=5_000_000):
        drawn[done : done + len(some)] = some
        done += len(some)
        if done % 320 < len(some):
            print(f"drawn {done}/{len(pairs)}", flush=True)
    right = like_their_own(drawn, encoded[pairs[:, 0], pairs[:, 1]].astype(np.float32))
    print(f"{right.mean():.1%} of the drawn latents are near their own picture's", flush=True)
    return Pairs(drawn[right], pairs[right], encoded, load_rgba(work, emojis), seed=0)


def polish_decoder(work: Path, minutes: float, things: str, batch: int = 16, lr: float = 7e-4) -> None:
    """Train the decoder for a time budget (the learning rate falls to zero along it).

    Args:
        work: folder with `vae/`, `latents.npy` and `checkpoint/`; `vae/` and `checkpoint/vae/` are replaced.
        minutes: wall-clock budget, after the drawing.
        things: the course whose captions are drawn: `first`, `core` or `all`.
        batch: windows a step.
        lr: peak learning rate.
    """
    pairs = pairs_for(work, things)
    vae = AutoencoderDC.from_pretrained(work / "vae")
    vae.to(memory_format=torch.channels_last).train()
    scale, params = float(vae.config.scaling_factor), list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(params, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    start, step, losses = time.monotonic(), 0, []
    while (spent := (time.monotonic() - start) / 60 / minutes) < 1:
        set_pace(optimizer, lr, step, spent, warm_up=50)
        latents, want = pairs.some(batch)
        with mixed_precision():
            got = vae.decode(latents / scale, return_dict=False)[0].float()
        loss = reconstruction_loss(got, want, sharpness=1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"decoder step {step} {spent:4.0%} loss {np.mean(losses[-50:]):.4f}", flush=True)
    for folder in (work / "vae", work / "checkpoint" / "vae"):
        vae.save_pretrained(folder)
