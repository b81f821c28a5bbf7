"""Image encoders and IP-Adapters of the published layout, small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from quantize.ipadapters import IpAdapterLayout, expected_shapes

EMBEDS, STATES, TOKENS, PLUS_TOKENS = 48, 64, 4, 16
DEPTH = 4  # of published resamplers; diffusers knows no other


def write_encoder(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(5)
    settings = {
        "hidden_size": STATES,
        "intermediate_size": 4 * STATES,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": EMBEDS,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "gelu",
        **changes,
    }
    CLIPVisionModelWithProjection(CLIPVisionConfig(**settings)).save_pretrained(folder)
    return folder


def layout(kind: str, words_width: int, channels: tuple[int, ...]) -> IpAdapterLayout:
    numbers = tuple(range(1, 2 * len(channels), 2))
    if kind == "basic":
        return IpAdapterLayout("image_embeds", EMBEDS, TOKENS, words_width, numbers, channels)
    sizes = {"depth": DEPTH, "width": 64, "heads": 2}
    return IpAdapterLayout("hidden_states", STATES, PLUS_TOKENS, words_width, numbers, channels, **sizes)


def write_adapter(file: Path, found: IpAdapterLayout) -> Path:
    torch.manual_seed(9)
    weights = {}
    for name, shape in expected_shapes(found).items():
        norm = "norm" in name or name.endswith("1.0.weight") or name.endswith("1.0.bias")
        if norm and name.endswith("weight"):
            weights[name] = 1 + 0.1 * torch.randn(shape)
        else:
            weights[name] = torch.randn(shape) * (0.05 if name.endswith("bias") else 1.5 * shape[-1] ** -0.5)
    save_file(weights, file)
    return file
