"""IP-Adapters in PyTorch, parts named as published files name them.

Sources: Ye et al. 2023, arXiv:2308.06721; the resampler: Alayrac et al. 2022, arXiv:2204.14198 (perceiver).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .attention import packed_attention
from .ipadapters import HEAD, LAYERS, PROJECTION, IpAdapterLayout
from .specs import GraphSpec


class Projection(nn.Module):
    """The basic kind: (batch, width) -> (batch, tokens, words)."""

    def __init__(self, layout: IpAdapterLayout):
        super().__init__()
        self.words_width = layout.words_width
        self.proj = nn.Linear(layout.reads_width, layout.tokens * layout.words_width)
        self.norm = nn.LayerNorm(layout.words_width)

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(image_embeds).unflatten(1, (-1, self.words_width)))


class _Perceiver(nn.Module):
    """Tokens that look at the picture's rows and at themselves."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD, bias=False)
        self.to_out = nn.Linear(heads * HEAD, width, bias=False)

    def forward(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm2(tokens)
        seen = torch.cat([self.norm1(rows), tokens], dim=1)
        keys, values = self.to_kv(seen).chunk(2, dim=2)
        return self.to_out(packed_attention(self.to_q(tokens), keys, values, self.heads, HEAD**-0.5))


class Resampler(nn.Module):
    """The plus kind: (batch, rows, width) -> (batch, tokens, words)."""

    def __init__(self, layout: IpAdapterLayout):
        super().__init__()
        width = layout.width
        self.latents = nn.Parameter(torch.empty(1, layout.tokens, width))
        self.proj_in = nn.Linear(layout.reads_width, width)
        self.proj_out = nn.Linear(width, layout.words_width)
        self.norm_out = nn.LayerNorm(layout.words_width)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Perceiver(width, layout.heads), _feed_forward(width)])
            for _ in range(layout.depth)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = self.proj_in(hidden_states)
        tokens = self.latents.repeat(rows.shape[0], 1, 1)
        for attend, feed_forward in self.layers:
            tokens = attend(rows, tokens) + tokens
            tokens = feed_forward(tokens) + tokens
        return self.norm_out(self.proj_out(tokens))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class IpAdapter(nn.Module):
    """What an image encoder gave -> keys and values of all layers, side by side."""

    def __init__(self, layout: IpAdapterLayout):
        super().__init__()
        self.image_proj = Resampler(layout) if layout.depth else Projection(layout)
        self.to_keys = nn.Linear(layout.words_width, sum(layout.channels), bias=False)
        self.to_values = nn.Linear(layout.words_width, sum(layout.channels), bias=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.image_proj(image)
        return self.to_keys(tokens), self.to_values(tokens)


def load_ip_adapter(file: Path, layout: IpAdapterLayout) -> IpAdapter:
    """The adapter with the file's weights, in float32 and for inference."""
    module, found = IpAdapter(layout), load_file(file)
    weights = {
        name: tensor.float()
        for name, tensor in found.items()
        if name.startswith(PROJECTION)  # of the same names here
    }
    for ours, theirs in (("to_keys.weight", "to_k_ip"), ("to_values.weight", "to_v_ip")):
        rows = [found[f"{LAYERS}{n}.{theirs}.weight"].float() for n in layout.numbers]
        weights[ours] = torch.cat(rows)
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)


def ip_adapter_spec(file: Path, layout: IpAdapterLayout) -> GraphSpec:
    """image_embeds (batch, width), or hidden_states (batch, rows, width) -> ip_keys and ip_values, (batch,
    tokens, channels): those of all layers side by side, in the adapter's own order."""
    rows = 50

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        shape = (math.ceil(rows * scale[0] / scale[1]),) if layout.reads == "hidden_states" else ()
        return (torch.randn(batch, *shape, layout.reads_width),)

    inputs, outputs = (layout.reads,), ("ip_keys", "ip_values")
    axes = {layout.reads: {0: "batch"}, **{name: {0: "batch"} for name in outputs}}
    if layout.reads == "hidden_states":
        axes[layout.reads][1] = "rows"
    return GraphSpec("ip_adapter", load_ip_adapter(file, layout), inputs, outputs, axes, examples)
