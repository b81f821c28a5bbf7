"""Train the UNet on latents made ahead and on the words of a text encoder that has learned to read.

Velocity prediction (Salimans & Ho 2022, arXiv:2202.00512) with a schedule rescaled to zero terminal
SNR (Lin et al. 2024, arXiv:2305.08891): without it no background can be pure white or fully coloured.
"""

from __future__ import annotations

import copy
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, UNet2DConditionModel
from PIL import Image

from .autoencoder import LATENT_CHANNELS
from .captions import colours_seen, judged_caption, own_tags, random_caption
from .data import PICTURES_PACKAGE, SIZE, Emoji, composite, emoji_list, load_rgba, taught
from .drawing import SIDE, STEPS, Words, build_scheduler, draw
from .hearing import hearing
from .palette import BACKGROUNDS
from .precision import mixed_precision

CAPTION_DROPOUT = 0.08
EMA_DECAY = 0.995
PACK_DEFAULTS = {
    "name": "pocket",
    "title": "Small things in bright colours: edgegen's own model, 256x256",
    "family": "sd1",
    "defaults": {"sampler": "ddim", "steps": STEPS, "guidance": 1.0, "width": SIZE, "height": SIZE},
    "sizes": {"min": SIZE, "max": SIZE, "multiple": 64},
    "licence": "Apache-2.0; trained from Microsoft's Fluent Emoji (MIT)",
}


def build_unet() -> UNet2DConditionModel:
    """17.6 M parameters; the pooled words also steer every residual block (`addition_embed_type`)."""
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 192, 224),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=4,  # diffusers' name; it is the number of heads
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


@torch.no_grad()
def encode_latents(work: Path, emojis: list[Emoji], batch: int = 24) -> np.ndarray:
    """Every (emoji, colour) it is trained on, as scaled latents, made once.

    Sets the autoencoder's `scaling_factor` so that latents have a standard deviation of 1.

    Returns:
        (emojis, COLOURS_EACH, 16, 16, 16) float16.
    """
    cache = work / "latents.npy"
    if cache.exists():
        return np.load(cache)
    vae = AutoencoderDC.from_pretrained(work / "vae").eval().to(memory_format=torch.channels_last)
    rgba = load_rgba(work, emojis)
    pairs = [(i, c) for i, e in enumerate(emojis) for c in colours_seen(e)]
    out = np.empty((len(pairs), LATENT_CHANNELS, SIDE, SIDE), np.float32)
    for at in range(0, len(pairs), batch):
        pictures = np.stack([composite(rgba[i], BACKGROUNDS[c]) for i, c in pairs[at : at + batch]])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        out[at : at + batch] = vae.encode(pixels, return_dict=False)[0].numpy()
        if at % (batch * 20) == 0:
            print(f"latents {at}/{len(pairs)}", flush=True)
    scale = float(1 / out.std())
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(work / "vae")
    latents = (out * scale).astype(np.float16).reshape(len(emojis), -1, *out.shape[1:])
    np.save(cache, latents)
    return latents


@dataclass
class Student:
    """What is trained, its moving average, and how far it has come."""

    unet: UNet2DConditionModel
    averaged: UNet2DConditionModel
    optimizer: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def new(cls) -> Student:
        unet = build_unet()
        unet.to(memory_format=torch.channels_last)
        averaged = copy.deepcopy(unet).requires_grad_(False).eval()
        optimizer = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        return cls(unet, averaged, optimizer)

    def save(self, path: Path) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def learn(self, loss: torch.Tensor, rate: float) -> float:
        """One step of the optimizer at a learning rate; returns the loss as a number."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.average()
        return loss.item()

    @torch.no_grad()
    def average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        mine, theirs = list(self.averaged.parameters()), list(self.unet.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def random_timesteps(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """(batch,) int64 in [0, 999]; half of them noisy, where words decide the picture."""
    uniform = rng.random(batch)
    noisy = rng.random(batch) < 0.5
    return torch.from_numpy(
        np.where(noisy, 1000 - 500 * uniform**2, 1000 * uniform).astype(np.int64).clip(0, 999)
    )


def train_denoiser(
    work: Path,
    minutes: float,
    batch: int = 16,
    lr: float = 1e-3,
    cool_down: bool = False,
    things: str = "core",
    sheet_every: float = 8.0,
) -> None:
    """Train for a time budget, from the last checkpoint if there is one.

    Args:
        work: folder that holds `vae/`, `tokenizer/` and `text_encoder/`, and gets latents, `train.pt` and
            `checkpoint/` (diffusers layout).
        minutes: wall-clock budget. Stop and start again as often as needed.
        batch: pictures a step.
        lr: learning rate; constant after 60 steps.
        cool_down: let the learning rate fall to zero along this budget (the last run before a release).
        things: `first`, `core` or `all`, as in `data.taught`.
        sheet_every: minutes between checkpoints and contact sheets.
    """
    emojis = emoji_list()
    latents = encode_latents(work, emojis)
    words = Words.load(work)
    student, saved = Student.new(), work / "train.pt"
    if saved.exists():
        student.load(saved)
    lesson = Lesson(emojis, latents, np.array(taught(emojis, things)), words, student.step + 1)
    torch.manual_seed(student.step + 1)  # or every run would go through the same noise again
    start, since, losses = time.monotonic(), time.monotonic(), []
    while (spent := (time.monotonic() - start) / 60 / minutes) < 1:
        rate = lr * min(1.0, (student.step + 1) / 60) * ((1 - spent) if cool_down else 1.0) + 1e-6
        losses.append(student.learn(lesson.loss(student, batch), rate))
        if student.step % 100 == 0:
            speed = len(losses) * batch / (time.monotonic() - start)
            print(
                f"step {student.step} {spent:4.0%} loss {np.mean(losses[-100:]):.4f} {speed:.1f}/s",
                flush=True,
            )
        if time.monotonic() - since > sheet_every * 60:
            since = time.monotonic()
            keep(work, student, words, things)
            lesson.say_hearing(student)
    keep(work, student, words, things)
    lesson.say_hearing(student)


class Lesson:
    """What is taught, and how far the student is off.

    Args:
        latents: (emojis, colours, c, h, w) float16, scaled.
        course: indices of the emoji to teach.
        seed: of emoji, colours, captions and timesteps.
    """

    def __init__(
        self,
        emojis: list[Emoji],
        latents: np.ndarray,
        course: np.ndarray,
        words: Words,
        seed: int,
    ):
        self._emojis, self._latents, self._course = emojis, latents, course
        self._words, self._aliases = words, own_tags(emojis)
        self._rng, self._words_rng = np.random.default_rng(seed), random.Random(seed)
        self._scheduler = build_scheduler()
        self._root_signal = self._scheduler.alphas_cumprod.sqrt().float()
        self._root_noise = (1 - self._scheduler.alphas_cumprod).sqrt().float()

    def loss(self, student: Student, batch: int) -> torch.Tensor:
        """Mean squared error of the velocity on a random batch."""
        which = self._rng.choice(self._course, size=batch)
        colours = self._rng.integers(self._latents.shape[1], size=batch)
        texts = [self._caption(i, c) for i, c in zip(which, colours, strict=True)]
        clean = torch.from_numpy(self._latents[which, colours].astype(np.float32))
        noise = torch.randn_like(clean)
        t = random_timesteps(self._rng, batch)
        a, s = self._root_signal[t].view(-1, 1, 1, 1), self._root_noise[t].view(-1, 1, 1, 1)
        noisy = (a * clean + s * noise).contiguous(memory_format=torch.channels_last)
        with mixed_precision():
            velocity = student.unet(noisy, t, self._words.hidden(texts), return_dict=False)[0]
        return F.mse_loss(velocity.float(), a * noise - s * clean)

    def _caption(self, index: int, colour: int) -> str:
        """Empty now and then: guidance needs to know what no words look like."""
        if self._words_rng.random() <= CAPTION_DROPOUT:
            return ""
        emoji = self._emojis[index]
        return random_caption(emoji, colours_seen(emoji)[colour], self._aliases[emoji.file], self._words_rng)

    def say_hearing(self, student: Student) -> None:
        """Print whether the averaged model hears what is asked for."""

        def velocity(noisy: torch.Tensor, timestep: int, texts: list[str]) -> torch.Tensor:
            return student.averaged(noisy, timestep, self._words.hidden(texts)).sample

        errors = hearing(velocity, self._scheduler, self._emojis, self._latents, self._course)
        print(
            "error with the right words {:.3f}, another thing's {:.3f}, none {:.3f}".format(*errors),
            flush=True,
        )


def provenance(step: int, things: str) -> dict[str, object]:
    """Where the weights come from, for `pack.json`."""
    emojis = emoji_list()
    return {
        "trained_from": f"{PICTURES_PACKAGE} on npm: Microsoft's Fluent 3D emoji (MIT)",
        "trained_by": f"python -m quantize.pocket, {step} steps of the denoiser",
        "things": [emojis[i].label for i in taught(emojis, things)],
        "backgrounds": list(BACKGROUNDS),
    }


def keep(work: Path, student: Student, words: Words, things: str) -> None:
    """Save what resumes the training, the averaged model in diffusers layout, and a contact sheet."""
    student.save(work / "train.pt")
    target = work / "checkpoint"
    words.save(target)
    student.averaged.save_pretrained(target / "unet")
    build_scheduler().save_pretrained(target / "scheduler")
    vae = AutoencoderDC.from_pretrained(work / "vae").eval()
    vae.save_pretrained(target / "vae")
    about = {**PACK_DEFAULTS, "provenance": provenance(student.step, things)}
    (target / "pack_defaults.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    emojis = emoji_list()
    pick = [emojis[i] for i in random.Random(7).sample(taught(emojis, things), 20)]
    texts = [judged_caption(e, colours_seen(e)[1 + k % 5]) for k, e in enumerate(pick)]
    pictures = draw(words, student.averaged, vae, texts)
    rows = [np.concatenate(list(pictures[r : r + 5]), axis=1) for r in range(0, 20, 5)]
    Image.fromarray(np.concatenate(rows)).save(work / f"sheet-{student.step:06d}.png")
    (work / "sheet.txt").write_text("\n".join(texts), "utf-8")
