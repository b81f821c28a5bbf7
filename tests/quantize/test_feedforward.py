"""GEGLU in two layers: the same numbers, and no tensor of twice the width in the graph."""

from __future__ import annotations

import torch
from diffusers.models.activations import GEGLU
from torch import nn

from quantize.feedforward import SplitGeglu, split_gates

from .checkpoint import unet


def test_two_layers_compute_what_one_did() -> None:
    torch.manual_seed(5)
    for bias in (True, False):
        whole = GEGLU(12, 20, bias=bias)
        x = torch.randn(2, 7, 12)
        split = SplitGeglu(whole)
        torch.testing.assert_close(split(x), whole(x), rtol=1e-6, atol=1e-6)
        assert split.value.weight.data_ptr() == whole.proj.weight.data_ptr(), "the weights are shared"


def test_every_gate_of_a_denoiser_is_split_once() -> None:
    torch.manual_seed(6)
    model = unet().eval()
    sample, words = torch.randn(1, model.config.in_channels, 8, 8), torch.randn(1, 5, 32)
    words = torch.randn(1, 5, model.config.cross_attention_dim)
    with torch.no_grad():
        wanted = model(sample, 501.0, words).sample
        count = split_gates(model)
        torch.testing.assert_close(model(sample, 501.0, words).sample, wanted, rtol=1e-5, atol=1e-5)
    assert count == sum(isinstance(m, SplitGeglu) for m in model.modules()) > 0
    assert split_gates(nn.Sequential(model)) == 0
