"""Train the autoencoder: 256x256x3 pictures <-> 16x16x16 latents.

A small deep-compression autoencoder (Chen et al. 2024, arXiv:2410.10733; diffusers' AutoencoderDC)
of plain residual blocks. Latents get noise while it trains, so that the decoder forgives
what the denoiser and INT8 get slightly wrong.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC

from .data import composite, emoji_list, load_rgba
from .pace import set_pace
from .palette import BACKGROUNDS
from .precision import mixed_precision

LATENT_CHANNELS = 16
DOWNSCALE = 16
LATENT_NOISE = 0.12


def build_autoencoder() -> AutoencoderDC:
    """The untrained autoencoder, about 2.5 M parameters."""
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(32, 32, 64, 128, 128),
        decoder_block_out_channels=(32, 32, 64, 128, 128),
        encoder_layers_per_block=(0, 1, 1, 1, 2),
        decoder_layers_per_block=(0, 1, 1, 1, 3),
        encoder_qkv_multiscales=((),) * 5,
        decoder_qkv_multiscales=((),) * 5,
        downsample_block_type="conv",
    )


def random_crops(rgba: np.ndarray, rng: np.random.Generator, batch: int, size: int) -> torch.Tensor:
    """(batch, 3, size, size) float32 in [-1, 1]: random emoji, colours, flips and places."""
    out = np.empty((batch, size, size, 3), np.float32)
    for k in range(batch):
        picture = rgba[rng.integers(len(rgba))]
        y, x = rng.integers(0, picture.shape[0] - size + 1, 2)
        crop = picture[y : y + size, x : x + size]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        named = rng.random() < 0.6
        colour = (
            list(BACKGROUNDS.values())[rng.integers(len(BACKGROUNDS))] if named else rng.integers(0, 256, 3)
        )
        out[k] = composite(crop, tuple(colour))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(got: torch.Tensor, want: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Squared error first, absolute error and edges as `sharpness` goes from 0 to 1.

    L1 and edges from the start teach it to draw grey: flat pictures have the right edges almost everywhere.
    """
    squared = F.mse_loss(got, want)
    if sharpness <= 0:
        return squared
    edges = F.l1_loss(got.diff(dim=3), want.diff(dim=3)) + F.l1_loss(got.diff(dim=2), want.diff(dim=2))
    return squared + sharpness * 0.5 * (F.l1_loss(got, want) + edges)


def train_autoencoder(
    work: Path,
    minutes: float,
    batch: int = 16,
    crop: int = 128,
    lr: float = 1.5e-3,
) -> None:
    """Train for a time budget (the learning rate falls to zero along it) and save to work/vae.

    Args:
        work: folder for downloads and results; an autoencoder already there is trained further.
        minutes: wall-clock budget.
        batch, crop: pictures a step and their side in pixels (a multiple of 16).
        lr: peak learning rate.
    """
    rgba = load_rgba(work, emoji_list())
    saved = work / "vae"
    vae = AutoencoderDC.from_pretrained(saved) if saved.exists() else build_autoencoder()
    vae.to(memory_format=torch.channels_last).train()
    scale = float(vae.config.scaling_factor)
    params = list(vae.parameters())
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    rng = np.random.default_rng(int(time.time()))
    start, step, shown = time.monotonic(), 0, []
    while (spent := (time.monotonic() - start) / 60 / minutes) < 1:
        set_pace(optimizer, lr, step, spent, warm_up=50)
        want = random_crops(rgba, rng, batch, crop)
        with mixed_precision():
            latents = vae.encode(want, return_dict=False)[0].float()
            noisy = latents + LATENT_NOISE / scale * torch.randn_like(latents)
            got = vae.decode(noisy, return_dict=False)[0].float()
        loss = (
            reconstruction_loss(got, want, sharpness=min(1.0, spent / 0.5)) + 1e-3 * latents.square().mean()
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        shown.append(F.mse_loss(got.detach(), want).item())
        if step % 50 == 0:
            psnr = 10 * np.log10(4 / np.mean(shown[-50:]))
            print(
                f"autoencoder step {step} {spent:4.0%} psnr {psnr:.2f} dB std {latents.std():.3f}", flush=True
            )
    vae.save_pretrained(saved)
