"""Graphs compute what the modules compute, in every kind of model that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint as tiny
import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models.embeddings import AttentionPooling

from quantize import export as ex
from quantize import weights
from quantize.attention import OneNodePooling, packed_attention, use_one_node_attention
from quantize.graphs import load_graph, op_counts
from quantize.source import open_source
from quantize.specs import vae_decoder_spec


def test_packed_attention_is_attention():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    split = [x.view(2, -1, 3, 4).transpose(1, 2) for x in (q, k, v)]
    wanted = torch.softmax(split[0] @ split[1].mT / 2, dim=-1) @ split[2]
    got = packed_attention(q, k, v, heads=3, scale=0.5)
    torch.testing.assert_close(got, wanted.transpose(1, 2).reshape(2, 5, 12))


def test_causal_attention_sees_no_later_key():
    torch.manual_seed(0)
    q = torch.randn(1, 4, 6)
    changed = q.clone()
    changed[:, 3] += 1
    first, second = (packed_attention(x, x, x, 2, 1.0, causal=True) for x in (q, changed))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_one_node_blocks_compute_what_diffusers_own_do():
    torch.manual_seed(0)
    model = tiny.unet().eval()
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10.0]), torch.randn(2, 16, 16)
    with torch.no_grad():
        wanted = model(*inputs).sample
        assert use_one_node_attention(model) == 9
        torch.testing.assert_close(model(*inputs).sample, wanted, rtol=1e-4, atol=1e-5)


def test_one_node_pooling_computes_what_diffusers_own_does():
    torch.manual_seed(0)
    pool = AttentionPooling(4, 24)
    x = torch.randn(3, 9, 24)
    torch.testing.assert_close(OneNodePooling(pool)(x), pool(x), rtol=1e-4, atol=1e-5)


def exported(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str, **models: Any
) -> Path:
    """Export a role with its model replaced; `export` itself compares it with torch."""
    for name, model in models.items():
        monkeypatch.setattr(weights, f"load_{name}", lambda source, model=model: model.eval())
    path = tmp_path / role / "model.onnx"
    assert ex.export(open_source(checkpoint), role, path) <= ex.PARITY
    return path


@pytest.mark.parametrize("role", ["vae_decoder", "vae_encoder"])
def test_stable_diffusions_autoencoder(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str
):
    torch.manual_seed(1)
    path = exported(checkpoint, monkeypatch, tmp_path, role, vae=tiny.autoencoder_kl())
    assert op_counts(load_graph(path))["MultiHeadAttention"] == 1


def test_the_tiny_autoencoder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    torch.manual_seed(1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    path = exported(checkpoint, monkeypatch, tmp_path, "vae_decoder", vae=vae)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"latent_sample": np.zeros((1, 4, 8, 8), np.float32)})[0].shape == (1, 3, 32, 32)


def test_a_denoiser_of_stable_diffusion_1(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    torch.manual_seed(1)
    unet = tiny.unet(addition_embed_type=None, resnet_time_scale_shift="default", layers_per_block=2)
    path = exported(checkpoint, monkeypatch, tmp_path, "unet", unet=unet)
    assert op_counts(load_graph(path))["MultiHeadAttention"] == 2 * 6


def test_a_graph_that_differs_from_torch_is_refused(checkpoint: Path, tmp_path: Path):
    source = open_source(checkpoint)
    path = tmp_path / "vae_decoder" / "model.onnx"
    ex.export(source, "vae_decoder", path)
    spec = vae_decoder_spec(source)
    with torch.no_grad():
        spec.module.vae.decoder.conv_in.weight.mul_(1.01)
    with pytest.raises(ex.ExportError, match="differs from torch"):
        ex.compare(spec, [spec.examples(1, (1, 1))], path)
