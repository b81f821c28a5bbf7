"""How latents become a picture, from the mode, the pack and what is free."""

from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.pixels import to_uint8
from edgegen.engine.decoding import (
    OVERLAP,
    TAIL,
    TILES,
    WHOLE,
    Decoding,
    decode_tiled,
    plan_decoding,
    tile_need_mb,
)
from edgegen.engine.freememory import FreeMemory
from edgegen.engine.memory import FULL, LOW, MAPPED, TILED, MemoryMode
from edgegen.engine.providers import choose_provider
from edgegen.engine.stages import Stages
from edgegen.pack import Pack, builtin_packs_dir, find_pack

SHAPE = (1, 4, 64, 64)
KL = ["text_encoder", "unet", "vae_decoder"]


def free(ram_mb: int) -> FreeMemory:
    return FreeMemory(ram_mb, 0, "this machine")


@pytest.mark.parametrize("mode", [FULL, MAPPED, LOW])
def test_only_mode_tiled_changes_the_picture(mode: MemoryMode) -> None:
    assert plan_decoding(mode, KL, SHAPE, 8, free(10)) == WHOLE


def test_the_smaller_tile_only_where_the_larger_does_not_fit() -> None:
    large, small = TILES
    enough = tile_need_mb(large, 8)
    assert plan_decoding(TILED, KL, SHAPE, 8, free(enough + 5)) == Decoding(large, OVERLAP)
    assert plan_decoding(TILED, KL, SHAPE, 8, None) == Decoding(large, OVERLAP)
    assert plan_decoding(TILED, KL, SHAPE, 8, free(enough - 5)) == Decoding(small, OVERLAP)
    assert plan_decoding(TILED, KL, SHAPE, 8, free(1)) == Decoding(small, OVERLAP), "less is not to be had"


def test_no_tiles_where_nothing_is_gained() -> None:
    assert plan_decoding(TILED, [*KL, TAIL], SHAPE, 8, free(1)) == WHOLE, "a cut decoder is exact"
    assert plan_decoding(TILED, KL, (1, 4, 24, 24), 8, None) == WHOLE


@pytest.fixture(scope="module")
def pocket() -> Pack:
    return find_pack("pocket", [builtin_packs_dir()])


def test_tiles_of_a_real_decoder_come_near_the_whole(pocket: Pack) -> None:
    """`pocket` at 256x256 in tiles of 8 of its 16 latents: its decoder looks about as far as they overlap."""
    stages = Stages(pocket, choose_provider("cpu"), 1)
    latents = np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype(np.float32)
    side = pocket.manifest.latent_downscale
    pictures = stages.decode(latents), decode_tiled(stages.sessions, latents, side, 8, 4)
    whole, tiled = (to_uint8(sample).astype(float) for sample in pictures)
    psnr = 20 * np.log10(255 / np.sqrt(np.mean((whole - tiled) ** 2)))
    assert 30 < psnr < 100
    one_tile = decode_tiled(stages.sessions, latents, side, 16, 4)
    assert (one_tile == stages.decode(latents)).all(), "one tile is the whole"
