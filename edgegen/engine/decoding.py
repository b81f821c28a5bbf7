"""Latents to pictures: whole; in two graphs, exactly piece by piece; or in tiles where no more fits.

A pack whose decoder could be cut (`quantize.cut`) holds the roles `vae_decoder_head` and `vae_decoder_tail`.
The CPU provider uses them in every memory mode: the same picture as from `vae_decoder`, nearly as fast, in a
third of the memory (OpenVINO would have to compile both). A decoder that looks at the whole picture (KL: its
norms) cannot be cut. In mode `tiled` it sees tiles, each with norms of its own: a picture a little different
from the whole one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..errors import EngineError
from .freememory import FreeMemory, own_anonymous_mb, read_free_memory
from .memory import MemoryMode
from .session import GraphSession
from .sessioncache import SessionCache
from .tiles import map_blended, map_exactly

HEAD, TAIL = "vae_decoder_head", "vae_decoder_tail"
EXACT_TILE_PIXELS = 128  # of the picture, along each side; the tail then needs far less than the head
TILES = (24, 16)  # latents; the smaller only where the larger does not fit: pictures should not depend on it
OVERLAP = 4  # latents
BYTES_PER_PIXEL = 4096  # of a KL decoder's tile: four tensors of 256 float channels
PAGES_MB = 24  # weights and code in use
_LARGEST_HALO, _LARGEST_SCALE = 64, 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """How latents become a picture. `tile`, `overlap`: in latents; 0: the same as the whole, bit for bit."""

    tile: int = 0
    overlap: int = 0

    def __str__(self) -> str:
        return f"tiles of {self.tile} latents, {self.overlap} shared" if self.tile else "whole"


WHOLE = Decoding()


def plan_decoding(
    mode: MemoryMode, roles: list[str], shape: tuple[int, ...], downscale: int, free: FreeMemory | None
) -> Decoding:
    """Pure: tiles only in mode `tiled`, of a decoder that is not cut, of latents larger than a tile.

    Args:
        roles: the pack's graphs.
        shape: of the latents, (b, c, h, w).
        free: None where the kernel does not tell: the larger tile.
    """
    if not mode.decodes_in_tiles or TAIL in roles:
        return WHOLE
    fits = [t for t in TILES if free is None or tile_need_mb(t, downscale) <= free.ram_mb]
    tile = fits[0] if fits else TILES[-1]
    return Decoding(tile, OVERLAP) if max(shape[2:]) > tile else WHOLE


def tile_need_mb(tile: int, downscale: int) -> int:
    """MB of the process while it decodes a tile, estimated: what it holds now, tensors, pages in use."""
    return own_anonymous_mb() + tile * tile * downscale * downscale * BYTES_PER_PIXEL // 10**6 + PAGES_MB


def decode(
    sessions: SessionCache, latents: np.ndarray, mode: MemoryMode, downscale: int
) -> tuple[np.ndarray, Decoding]:
    """(b, c, h, w) of the autoencoder's latents -> (b, 3, H, W) float32, and how."""
    free = read_free_memory() if mode.decodes_in_tiles else None
    how = plan_decoding(mode, sessions.roles, latents.shape, downscale, free)
    if how.tile:
        log.warning("memory is short: decoding in %s; the picture differs a little from the whole", how)
        return decode_tiled(sessions, latents, downscale, how.tile, how.overlap), how
    if TAIL in sessions.roles and sessions.on_cpu:
        return _decode_cut(sessions, latents), how
    return run_decoder(sessions.get("vae_decoder"), latents), how


def decode_tiled(
    sessions: SessionCache, latents: np.ndarray, downscale: int, tile: int, overlap: int
) -> np.ndarray:
    """Each tile decoded on its own, faded into its neighbours.

    Args:
        latents: (b, c, h, w) of the autoencoder.
        tile, overlap: in latents, 0 <= overlap < tile.
    Returns:
        (b, 3, downscale * h, downscale * w) float32.
    Raises:
        ValueError: of tile and overlap. EngineError: the graph failed.
    """
    return map_blended(
        lambda part: run_decoder(sessions.get("vae_decoder"), part), latents, tile, overlap, downscale
    )


def run_decoder(session: GraphSession, latents: np.ndarray) -> np.ndarray:
    """One run of the graph `vae_decoder`. Raises EngineError when it has no output `sample`."""
    return session.output({"latent_sample": latents}, "sample")


def _decode_cut(sessions: SessionCache, latents: np.ndarray) -> np.ndarray:
    """The head whole, the tail in tiles that bring along all it looks at."""
    features = sessions.get(HEAD).output({"latent_sample": latents}, "features")
    tail = sessions.get(TAIL)
    halo, scale = (
        _property(tail, name, most) for name, most in (("halo", _LARGEST_HALO), ("scale", _LARGEST_SCALE))
    )
    tile = max(1, EXACT_TILE_PIXELS // max(1, scale))
    return map_exactly(lambda part: tail.output({"features": part}, "sample"), features, tile, halo, scale)


def _property(session: GraphSession, name: str, most: int) -> int:
    text = session.properties.get(f"edgegen.{name}", "")
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise EngineError(f"graph {session.name}: edgegen.{name} is {text[:20]!r}; it must be 0 to {most}")
    return int(text)
