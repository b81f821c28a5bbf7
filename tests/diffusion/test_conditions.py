"""What SDXL and guidance-distilled denoisers are told beside the words."""

from __future__ import annotations

import numpy as np
import pytest

from edgegen.diffusion.conditions import guidance_embedding, size_ids


@pytest.mark.parametrize(("scale", "dim"), [(1.0, 256), (7.5, 256), (8.5, 512), (2.0, 33)])
def test_guidance_is_embedded_as_diffusers_does(scale: float, dim: int):
    torch = pytest.importorskip("torch")
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    wanted = Pipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), embedding_dim=dim)
    got = guidance_embedding(scale, dim)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-3)  # sines of thousands, in float32


def test_no_guidance_is_zeros_and_ones():
    assert guidance_embedding(1.0, 6).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_size_ids_are_height_first():
    assert size_ids(1024, 512).tolist() == [[512, 1024, 0, 0, 512, 1024]]
