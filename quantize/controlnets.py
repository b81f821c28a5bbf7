"""ControlNets: recognised by a diffusers folder's config, and how they become a graph.

Source: Zhang et al. 2023, arXiv:2302.05543.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .configs import TIME_IDS
from .folder import read_config
from .refusal import PICKLES, SourceError, raise_if
from .tensorfile import read_tensors

if TYPE_CHECKING:
    import torch

    from .specs import GraphSpec

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model"
EXAMPLE_SIDE = 32  # latents
_TOKENS = 77


@dataclass(frozen=True)
class ControlNetLayout:
    """What a folder's config says.

    Attributes:
        words_width: channels of `encoder_hidden_states`.
        residuals: how many it adds to skip connections; the middle's is one more.
        pooled_width: of `text_embeds`; 0: it is not told of summary and sizes.
        multiple: of the latents' sides.
        latent_channels, downscale: of the latents; pixels of the hint for one, along a side.
    """

    words_width: int
    residuals: int
    pooled_width: int
    multiple: int
    latent_channels: int
    downscale: int


def find_controlnet(folder: Path) -> ControlNetLayout | None:
    """What the ControlNet in a diffusers folder is; None when the folder holds something else.

    Raises:
        SourceError: it is of a kind that is not read, or has no safetensors; or it is a single file.
    """
    if folder.is_file() and folder.suffix not in PICKLES:
        _refuse_single(folder)
    config = read_config(folder / CONFIG, [])  # without one it is something else
    if config.get("_class_name") != "ControlNetModel":
        return None
    raise_if(folder, _problems(folder, config))
    blocks, layers = config["block_out_channels"], int(config.get("layers_per_block", 2))
    pooled = config.get("addition_embed_type") == "text_time"
    summary = int(config.get("projection_class_embeddings_input_dim") or 0)
    sizes = TIME_IDS * int(config.get("addition_time_embed_dim") or 0)
    return ControlNetLayout(
        words_width=int(config["cross_attention_dim"]),
        residuals=len(blocks) * (layers + 1),
        pooled_width=summary - sizes if pooled else 0,
        multiple=2 ** (len(blocks) - 1),
        latent_channels=int(config.get("in_channels", 4)),
        downscale=2 ** (len(config.get("conditioning_embedding_out_channels", (0,) * 4)) - 1),
    )


def _refuse_single(file: Path) -> None:
    """Raise SourceError when a file is a ControlNet, with the way out."""
    names = read_tensors(file)
    if any(name.removeprefix("control_model.").startswith("input_hint_block.") for name in names):
        how = "ControlNetModel.from_single_file(FILE).save_pretrained(FOLDER)"
        raise SourceError(f"{file} is a ControlNet in one file; convert it once with diffusers: {how}")
    if any(name.startswith("controlnet_cond_embedding.") for name in names):
        raise SourceError(
            f"{file} is a ControlNet without its {CONFIG}: give the folder that holds both, "
            f"the weights called {WEIGHTS}.safetensors"
        )


def _problems(folder: Path, config: dict[str, Any]) -> list[str]:
    found = []
    if not any(folder.glob(f"{WEIGHTS}*.safetensors")):
        found.append(f"it has no {WEIGHTS}.safetensors")
    if not isinstance(config.get("cross_attention_dim"), int):
        found.append("cross_attention_dim must be one number")
    if not isinstance(config.get("block_out_channels"), list) or not config["block_out_channels"]:
        found.append("block_out_channels must be a list")
    if config.get("addition_embed_type") not in (None, "text_time"):
        found.append(f"addition_embed_type {config['addition_embed_type']!r} is not read")
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        found.append("class embeddings are not read")
    if config.get("global_pool_conditions"):
        found.append("global_pool_conditions is not read")
    return found


def controlnet_spec(folder: Path, layout: ControlNetLayout) -> GraphSpec:
    """sample, timestep (1,), encoder_hidden_states, controlnet_cond (batch, 3, H, W) in [0, 1], of SDXL also
    text_embeds and time_ids -> down_residual_0, .., mid_residual."""
    import torch
    from diffusers import ControlNetModel

    from .attention import use_one_node_attention
    from .specs import GraphSpec
    from .weights import load_diffusers

    model = load_diffusers(ControlNetModel, folder)
    use_one_node_attention(model)
    names = ("text_embeds", "time_ids") if layout.pooled_width else ()

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        step = layout.multiple
        high = max(2 * step, EXAMPLE_SIDE * scale[0] // scale[1] // step * step)
        wide = high + step
        sample = torch.randn(batch, layout.latent_channels, high, wide)
        hint = torch.rand(batch, 3, high * layout.downscale, wide * layout.downscale)
        words = torch.randn(batch, _TOKENS, layout.words_width)
        pooled = torch.randn(batch, layout.pooled_width), torch.rand(batch, TIME_IDS) * 1024
        return sample, torch.tensor([501.0]), words, hint, *pooled[: len(names)]

    space = {0: "batch", 2: "height", 3: "width"}
    outputs = (*(f"down_residual_{k}" for k in range(layout.residuals)), "mid_residual")
    axes = {"sample": space, "controlnet_cond": {0: "batch", 2: "hint_height", 3: "hint_width"}}
    axes |= {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in outputs}
    axes |= {"encoder_hidden_states": {0: "batch", 1: "sequence"}, **{n: {0: "batch"} for n in names}}
    inputs = ("sample", "timestep", "encoder_hidden_states", "controlnet_cond", *names)
    return GraphSpec("controlnet", _module(model, names), inputs, outputs, axes, examples)


def _module(model: Any, names: tuple[str, ...]) -> torch.nn.Module:
    from torch import nn

    class ControlNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.controlnet = model

        def forward(self, sample: Any, timestep: Any, words: Any, hint: Any, *more: Any) -> Any:
            told = dict(zip(names, more, strict=True)) or None
            down, mid = self.controlnet(
                sample, timestep, words, hint, added_cond_kwargs=told, return_dict=False
            )
            return (*down, mid)

    return ControlNet()
