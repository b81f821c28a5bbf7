"""VAEDecodeTiled: tiles laid and blended as ComfyUI does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.feathering import decode_three_ways, map_feathered
from edgegen.engine.nodes import NODES, Latents
from edgegen.engine.workbench import Workbench
from edgegen.settings import LimitSettings

TINY = Path(__file__).parent.parent / "packs" / "tiny"
RNG = np.random.default_rng(0)


def enlarged(x: np.ndarray) -> np.ndarray:
    """A decoder that looks at nothing around: tiles must change nothing."""
    return x[:, :3].repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize(("shape", "tile", "overlap"), [((20, 33), 8, 2), ((9, 40), 16, 4), ((8, 8), 8, 0)])
def test_a_decoder_without_surroundings_gives_the_whole(shape, tile: int, overlap: int) -> None:
    x = RNG.standard_normal((1, 4, *shape), np.float32)
    found = decode_three_ways(enlarged, x, tile, overlap, 2)
    np.testing.assert_allclose(found, enlarged(x), atol=1e-5)


def test_tiles_and_weights_by_hand() -> None:
    """Columns 0-4 and 3-6 of 6: they share column 3, each fading over one latent, two pixels."""
    seen: list[tuple[int, ...]] = []

    def numbered(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape[2:])
        return np.full((1, 3, 2 * x.shape[2], 2 * x.shape[3]), len(seen), np.float32)

    found = map_feathered(numbered, np.zeros((1, 4, 4, 6), np.float32), (4, 4), 1, 2)
    assert seen == [(4, 4), (4, 3)]
    first, second = np.array([1.0, 0.5]), np.array([0.5, 1.0])
    shared = (first * 1 + second * 2) / (first + second)
    np.testing.assert_allclose(found[0, 0, 3], [*[1] * 6, *shared, *[2] * 4], rtol=1e-6)


def test_the_node_decodes_tile_by_tile_and_what_fits_a_tile_exactly(tmp_path: Path) -> None:
    bench = Workbench([TINY.parent], {}, tmp_path, LimitSettings(), "cpu", 1)
    vae = bench.stages(bench.pack_for("tiny"))
    latents = Latents(RNG.standard_normal((2, 4, 16, 16), np.float32), 8, vae.pack.manifest.latent_scale)
    node = NODES["VAEDecodeTiled"]
    (whole,) = NODES["VAEDecode"].run(bench, samples=latents, vae=vae)
    (same,) = node.run(bench, samples=latents, vae=vae, tile_size=512, overlap=64, temporal_size=64)
    (tiled,) = node.run(bench, samples=latents, vae=vae, tile_size=64)
    np.testing.assert_allclose(same, whole, atol=1e-6)
    assert tiled.shape == whole.shape == (2, 3, 128, 128)
    assert 0.5 < np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] < 0.9999  # each tile's norms are its own
    bench.close()
