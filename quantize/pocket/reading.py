"""Teach the text encoder to read, ahead of the denoiser, as CLIP is taught ahead of Stable Diffusion.

From a caption alone it learns to tell which thing is meant, what that thing looks like, and which background
is asked for (the purpose of CLIP's pretraining, Radford et al. 2021, arXiv:2103.00020; with a closed set of
pictures, naming the right one needs no in-batch negatives). Trained together with the denoiser from nothing,
it learns colours in minutes and things hardly at all.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPTextModel

from .captions import own_tags, random_caption
from .data import Emoji, emoji_list, load_rgba
from .pace import set_pace
from .palette import BACKGROUNDS
from .words import END, build_text_encoder, train_tokenizer

THUMB = 16
LOOKS = 64


def looks(rgba: np.ndarray) -> torch.Tensor:
    """What things look like: the first LOOKS principal components of their thumbnails, of unit variance.

    Args:
        rgba: (n, h, w, 4) uint8, straight alpha.
    Returns:
        (n, LOOKS) float32.
    """
    small = [Image.fromarray(p).convert("RGBa").resize((THUMB, THUMB), Image.Resampling.BOX) for p in rgba]
    flat = torch.from_numpy(np.stack([np.asarray(s, np.float32) for s in small]).reshape(len(rgba), -1))
    flat = flat - flat.mean(dim=0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    found = flat @ directions[:LOOKS].T
    return found / found.std()


class Reader(torch.nn.Module):
    """The text encoder and three linear questions put to every place after the caption's end."""

    def __init__(self, text_encoder: CLIPTextModel, things: int, end: int):
        super().__init__()
        self.text_encoder, self._end = text_encoder, end
        width = text_encoder.config.hidden_size
        self.thing = torch.nn.Linear(width, things)
        self.look = torch.nn.Linear(width, LOOKS)
        self.colour = torch.nn.Linear(width, len(BACKGROUNDS))

    def after_end(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, length) ids -> hidden states (m, width) of END and padding, and the caption (m,) of each."""
        hidden = self.text_encoder(ids).last_hidden_state
        caption, place = torch.nonzero(ids == self._end, as_tuple=True)
        return hidden[caption, place], caption


def train_text_encoder(work: Path, minutes: float, batch: int = 64, lr: float = 1e-3) -> None:
    """Train for a time budget (the learning rate falls to zero along it) and save to work/text_encoder.

    Args:
        work: folder for downloads and results; gets `tokenizer/` and `text_encoder/`.
        minutes: wall-clock budget; some five are enough.
        batch: captions a step.
        lr: peak learning rate.
    """
    emojis = emoji_list()
    pictured = looks(load_rgba(work, emojis))
    words = work / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(words)) if words.exists() else train_tokenizer(emojis, words)
    end = tokenizer.token_to_id(END)
    assert end is not None, f"{words} has no {END}"
    reader = Reader(build_text_encoder(tokenizer), len(emojis), end)
    optimizer = torch.optim.AdamW(
        reader.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    captions = _Captions(emojis, seed=0)
    start, step, heard = time.monotonic(), 0, []
    while (spent := (time.monotonic() - start) / 60 / minutes) < 1:
        set_pace(optimizer, lr, step, spent, warm_up=100)
        texts, things, colours = captions.some(batch)
        ids = torch.tensor([t.ids for t in tokenizer.encode_batch(texts)])
        hidden, caption = reader.after_end(ids)
        thing, colour = torch.from_numpy(things)[caption], torch.from_numpy(colours)[caption]
        named = reader.thing(hidden)
        loss = F.cross_entropy(named, thing) + F.cross_entropy(reader.colour(hidden), colour)
        loss = loss + F.mse_loss(reader.look(hidden), pictured[thing])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        step += 1
        heard.append((loss.item(), (named.argmax(dim=1) == thing).float().mean().item()))
        if step % 100 == 0:
            mean_loss, right = np.mean(heard[-100:], axis=0)
            print(
                f"text encoder step {step} {spent:4.0%} loss {mean_loss:.3f} things {right:.1%}", flush=True
            )
    reader.text_encoder.save_pretrained(work / "text_encoder")


class _Captions:
    """Random captions of every thing on every background, with what they mean."""

    def __init__(self, emojis: list[Emoji], seed: int):
        self._emojis, self._aliases = emojis, own_tags(emojis)
        self._rng, self._names = random.Random(seed), list(BACKGROUNDS)

    def some(self, count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Captions, and the indices of their emoji and of their backgrounds, (count,) int64 each."""
        things = [self._rng.randrange(len(self._emojis)) for _ in range(count)]
        colours = [self._rng.randrange(len(self._names)) for _ in range(count)]
        texts = []
        for i, c in zip(things, colours, strict=True):
            emoji = self._emojis[i]
            texts.append(random_caption(emoji, self._names[c], self._aliases[emoji.file], self._rng))
        return texts, np.array(things), np.array(colours)
