"""Upscalers of the ESRGAN family: the nets, their weights, and how they become a graph.

RRDBNet: Wang et al. 2018, arXiv:1809.00219 (ESRGAN), section 3.1; its folded input: Wang et al. 2021,
arXiv:2107.10833 (Real-ESRGAN), section 3.3. The compact nets came with the latter: convolutions with PReLU
between them, whose channels become pixels on top of the enlarged picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .specs import GraphSpec
from .upscalerkeys import UpscalerLayout

SLOPE = 0.2  # of LeakyReLU
SHARE = 0.2  # of a block's result in what it gives on
EXAMPLE_SIDE = 48  # pixels
_AXES = {0: "batch", 2: "height", 3: "width"}


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and what all before it gave."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        for k in range(1, 6):
            conv = _conv(channels + (k - 1) * growth, growth if k < 5 else channels)
            self.add_module(f"conv{k}", conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for k in range(1, 5):
            conv = self.get_submodule(f"conv{k}")
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), SLOPE))
        return x + SHARE * self.get_submodule("conv5")(torch.cat(seen, 1))


class _Block(nn.Module):
    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(channels, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + SHARE * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """image (b, 3, h, w) in [0, 1] -> (b, 3, scale * h, scale * w), about the same range."""

    def __init__(self, layout: UpscalerLayout):
        super().__init__()
        wide = layout.channels
        self.unshuffle, self.doublings = layout.unshuffle, layout.doublings
        self.conv_first = _conv(3 * layout.unshuffle**2, wide)
        self.body = nn.ModuleList([_Block(wide, layout.growth) for _ in range(layout.depth)])
        self.conv_body, self.conv_hr, self.conv_last = _conv(wide, wide), _conv(wide, wide), _conv(wide, 3)
        for k in range(layout.doublings):
            self.add_module(f"conv_up{k + 1}", _conv(wide, wide))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        folded = F.pixel_unshuffle(image, self.unshuffle) if self.unshuffle > 1 else image
        first = x = self.conv_first(folded)
        for block in self.body:
            x = block(x)
        x = first + self.conv_body(x)
        for k in range(self.doublings):
            larger = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{k + 1}")(larger), SLOPE)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), SLOPE))


class CompactNet(nn.Module):
    """image (b, 3, h, w) in [0, 1] -> (b, 3, scale * h, scale * w), about the same range."""

    def __init__(self, layout: UpscalerLayout):
        super().__init__()
        wide, self.scale = layout.channels, layout.scale
        layers: list[nn.Module] = [_conv(3, wide), nn.PReLU(wide)]
        for _ in range(layout.depth):
            layers += [_conv(wide, wide), nn.PReLU(wide)]
        self.body = nn.ModuleList([*layers, _conv(wide, 3 * layout.scale**2)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for layer in self.body:
            x = layer(x)
        larger = F.interpolate(image, scale_factor=float(self.scale), mode="nearest")
        return F.pixel_shuffle(x, self.scale) + larger


def load_upscaler(path: Path, layout: UpscalerLayout) -> nn.Module:
    """The net with the file's weights, in float32 and for inference."""
    net = RRDBNet(layout) if layout.net == "rrdb" else CompactNet(layout)
    weights = load_file(path)
    net.load_state_dict({ours: weights[theirs].float() for ours, theirs in layout.names.items()})
    return net.eval().requires_grad_(False)


def upscaler_spec(path: Path, layout: UpscalerLayout) -> GraphSpec:
    """image (batch, 3, height, width) in [0, 1] -> upscaled."""

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high = EXAMPLE_SIDE * scale[0] // scale[1] // layout.unshuffle * layout.unshuffle
        return (torch.rand(batch, 3, high, high + layout.unshuffle),)

    axes = {"image": _AXES, "upscaled": _AXES}
    return GraphSpec("upscaler", load_upscaler(path, layout), ("image",), ("upscaled",), axes, examples)
