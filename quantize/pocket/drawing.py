"""From words to latents to pictures in PyTorch: to look at while it trains, and to polish the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, DDIMScheduler
from tokenizers import Tokenizer
from transformers import CLIPTextModel

from .autoencoder import DOWNSCALE, LATENT_CHANNELS
from .data import SIZE
from .precision import mixed_precision

SIDE = SIZE // DOWNSCALE
STEPS = 8  # the pack's default, as is guidance 1: a caption has one picture, so there is nowhere to push it


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True)
class Words:
    """The tokenizer and the text encoder as `reading.py` left them; here they learn nothing more."""

    tokenizer: Tokenizer
    text_encoder: CLIPTextModel

    @classmethod
    def load(cls, folder: Path) -> Words:
        """From the folder that holds `tokenizer/` and `text_encoder/`."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        return cls(tokenizer, CLIPTextModel.from_pretrained(folder / "text_encoder").eval())

    def save(self, folder: Path) -> None:
        (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
        self.text_encoder.save_pretrained(folder / "text_encoder")

    @torch.no_grad()
    def hidden(self, texts: list[str]) -> torch.Tensor:
        """(n, MAX_LENGTH, width) float32, for the cross-attention."""
        ids = torch.tensor([t.ids for t in self.tokenizer.encode_batch(texts)])
        return self.text_encoder(ids).last_hidden_state


@torch.no_grad()
def denoise(words: Words, unet: torch.nn.Module, texts: list[str], seed: int = 0) -> torch.Tensor:
    """(n, 16, 16, 16) float32 scaled latents, by plain DDIM with the pack's default settings."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(STEPS)
    hidden = words.hidden(texts)
    noise = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(texts), LATENT_CHANNELS, SIDE, SIDE, generator=noise)
    for t in scheduler.timesteps:
        with mixed_precision():
            velocity = unet(latents, t, hidden, return_dict=False)[0].float()
        latents = scheduler.step(velocity, t, latents).prev_sample
    return latents


@torch.no_grad()
def draw(words: Words, unet: torch.nn.Module, vae: AutoencoderDC, texts: list[str]) -> np.ndarray:
    """(n, 256, 256, 3) uint8."""
    pixels = vae.decode(denoise(words, unet, texts) / vae.config.scaling_factor, return_dict=False)[0]
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
