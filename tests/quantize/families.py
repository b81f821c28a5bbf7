"""Checkpoints of each family at its true layout, narrow and random: the fewest layers a level can have.

Widths obey what files in the original layout take for granted: heads of 64 channels but for Stable Diffusion
1's eight heads, groups of 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoint as tiny
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

FAMILIES = ("sd1", "sd2", "sd_turbo", "lcm", "sdxl", "sdxl_turbo")
VOCABULARY = 514
TOKENS = 77
GUIDANCE_DIM = 32
_BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_SD_BLOCKS = {
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
_SD2_UNET = {
    **_SD_BLOCKS,
    "block_out_channels": (64, 64, 128, 128),
    "attention_head_dim": (1, 1, 2, 2),
    "use_linear_projection": True,
}
_SD1_UNET = {**_SD_BLOCKS, "block_out_channels": (32, 32, 64, 64), "attention_head_dim": 8}
_SDXL_UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 64, 128),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 1, 2),
    "use_linear_projection": True,
    "cross_attention_dim": 64 + 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 128 + 6 * 256,
}
_UNETS: dict[str, dict[str, Any]] = {
    "sd1": _SD1_UNET,
    "sd2": _SD2_UNET,
    "sd_turbo": _SD2_UNET,
    "lcm": {**_SD1_UNET, "time_cond_proj_dim": GUIDANCE_DIM},
    "sdxl": _SDXL_UNET,
    "sdxl_turbo": _SDXL_UNET,
}


def is_sdxl(family: str) -> bool:
    return family.startswith("sdxl")


def side(family: str) -> int:
    """Of a picture, in pixels: 2x2 are left at the deepest level, as a norm over a single one makes noise."""
    return 64 if is_sdxl(family) else 128


def scheduler(family: str) -> Any:
    """As the family's best-known checkpoint has it."""
    if family == "sd1":
        return PNDMScheduler(**_BETAS, steps_offset=1, skip_prk_steps=True)
    if family == "sd2":
        return DDIMScheduler(**_BETAS, steps_offset=1, prediction_type="v_prediction", set_alpha_to_one=False)
    if family == "lcm":
        return LCMScheduler(**_BETAS)
    if family == "sdxl":
        return EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading")
    kind = EulerDiscreteScheduler if family == "sd_turbo" else EulerAncestralDiscreteScheduler
    return kind(**_BETAS, timestep_spacing="trailing")


def unet(family: str, **changes: Any) -> UNet2DConditionModel:
    settings = {
        "sample_size": 8,
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        **_UNETS[family],
        **changes,
    }
    return UNet2DConditionModel(**settings)


def text_encoder(family: str) -> CLIPTextModel:
    return CLIPTextModel(
        _text_config(64, "quick_gelu" if family in ("sd1", "lcm") or is_sdxl(family) else "gelu")
    )


def text_encoder_2() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_text_config(128, "gelu"))


def _text_config(width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=width,
        max_position_embeddings=TOKENS,
        hidden_act=activation,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )


def autoencoder_kl(scaling_factor: float = 0.18215) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
        scaling_factor=scaling_factor,
    )


def autoencoder_tiny() -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)


@torch.no_grad()
def loud(model: torch.nn.Module) -> torch.nn.Module:
    """Random models hardly listen to their inputs: let their attention and their time embeddings matter."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and any(part in name for part in ("attn", "embedding", "cond_proj")):
            weight.mul_(2)  # more, and rounding alone changes the picture
    return model


def write_family(folder: Path, family: str, vae: Any = None) -> Path:
    """A whole diffusers folder."""
    torch.manual_seed(11)
    tiny.write_tokenizer(folder / "tokenizer")
    text_encoder(family).save_pretrained(folder / "text_encoder")
    loud(unet(family)).save_pretrained(folder / "unet")
    (vae or autoencoder_kl(0.13025 if is_sdxl(family) else 0.18215)).save_pretrained(folder / "vae")
    scheduler(family).save_pretrained(folder / "scheduler")
    if is_sdxl(family):
        tiny.write_tokenizer(folder / "tokenizer_2")
        (folder / "tokenizer_2" / "special_tokens_map.json").write_text('{"pad_token": "!"}', "utf-8")
        text_encoder_2().save_pretrained(folder / "text_encoder_2")
    return folder
