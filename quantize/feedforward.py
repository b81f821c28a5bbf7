"""Gated feed-forward layers (GEGLU) as two layers of half the width: value and gate.

diffusers makes both with one layer and cuts its result in two. On Stable Diffusion 1.5 at 512x512 that result
is 42 MB, and the denoiser's largest: with the cut's copies it sets the memory of a whole step. Two layers
compute the same numbers, need no cut, and 20 MB less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import nn


class SplitGeglu(nn.Module):
    """diffusers' GEGLU (Shazeer 2020, arXiv:2002.05202): value(x) * gelu(gate(x))."""

    def __init__(self, whole: GEGLU):
        super().__init__()
        self.value, self.gate = _halves(whole.proj)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, sequence, channels) -> (batch, sequence, inner channels)."""
        gate = F.gelu(self.gate(x))  # first: its own input is gone before the value is made
        return self.value(x) * gate


def _halves(layer: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """Two layers that share the one's weights; first the lower outputs."""
    weights = layer.weight.chunk(2)
    biases = layer.bias.chunk(2) if layer.bias is not None else (None, None)
    return _linear(weights[0], biases[0]), _linear(weights[1], biases[1])


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def split_gates(model: nn.Module) -> int:
    """Replace every GEGLU of a diffusers model; returns how many."""
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, GEGLU)
    ]
    for parent, name in found:
        setattr(parent, name, SplitGeglu(parent.get_submodule(name)))
    return len(found)
