"""CLIP image encoders: recognised by a transformers folder's config, and how they become a graph.

Source: Radford et al. 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folder import read_config, weight_problems
from .refusal import raise_if

if TYPE_CHECKING:
    import torch

    from .specs import GraphSpec

MODEL_TYPE, ARCHITECTURE = "clip_vision_model", "CLIPVisionModelWithProjection"
_SIDE_MAX, _CHANNELS = 1024, 3


@dataclass(frozen=True)
class ClipVisionLayout:
    """What a folder's config says.

    Attributes:
        image_size: side of the square picture it looks at, in pixels.
        embeds_width: of `image_embeds`, the whole picture in one row.
        states_width: of `hidden_states`, a row for each patch and one more.
    """

    image_size: int
    embeds_width: int
    states_width: int


def find_clip_vision(folder: Path) -> ClipVisionLayout | None:
    """What the image encoder in a transformers folder is; None when the folder holds something else.

    Raises:
        SourceError: it is of a kind that is not read, or has no safetensors.
    """
    config = read_config(folder / "config.json", [])  # without one it is something else
    if config.get("model_type") != MODEL_TYPE:
        return None
    raise_if(folder, _problems(folder, config))
    return ClipVisionLayout(
        image_size=int(config.get("image_size", 224)),
        embeds_width=int(config.get("projection_dim", 512)),
        states_width=int(config.get("hidden_size", 768)),
    )


def _problems(folder: Path, config: dict[str, Any]) -> list[str]:
    found = weight_problems(folder)
    if ARCHITECTURE not in (config.get("architectures") or [ARCHITECTURE]):
        found.append(f"architectures are {config['architectures']}; read is {ARCHITECTURE}")
    for name, most in (("image_size", _SIDE_MAX), ("projection_dim", 1 << 16), ("hidden_size", 1 << 16)):
        value = config.get(name, 1)
        if not isinstance(value, int) or not 1 <= value <= most:
            found.append(f"{name} is {value!r}; it must be one number from 1 to {most}")
    if config.get("num_channels", _CHANNELS) != _CHANNELS:
        found.append(f"num_channels is {config['num_channels']}; pictures have {_CHANNELS}")
    return found


def clip_vision_spec(folder: Path, layout: ClipVisionLayout) -> GraphSpec:
    """pixel_values (batch, 3, side, side), normalized -> image_embeds (batch, width), projected, and
    hidden_states (batch, patches + 1, width) of the last layer but one."""
    import torch
    from transformers import CLIPVisionModelWithProjection

    from .attention import ONE_NODE
    from .specs import GraphSpec
    from .weights import load_transformers

    model = load_transformers(CLIPVisionModelWithProjection, folder)
    model.set_attn_implementation(ONE_NODE)

    def examples(batch: int, _scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        return (torch.randn(batch, _CHANNELS, layout.image_size, layout.image_size),)

    inputs, outputs = ("pixel_values",), ("image_embeds", "hidden_states")
    axes = {name: {0: "batch"} for name in (*inputs, *outputs)}
    return GraphSpec("clip_vision", _module(model), inputs, outputs, axes, examples)


def _module(model: Any) -> torch.nn.Module:
    from torch import nn

    class ClipVision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip_vision = model

        def forward(self, pixel_values: Any) -> Any:
            out = self.clip_vision(pixel_values, output_hidden_states=True)
            return out.image_embeds, out.hidden_states[-2]

    return ClipVision()
