"""A Stable Diffusion 1 of true layout, narrow and random: a diffusers folder, and the file ComfyUI reads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/quantize")]

import families  # noqa: E402
import originals  # noqa: E402

from .cases import SIDE  # noqa: E402

WIDTH, TEXT_LAYERS, LAYERS, RANK = 64, 3, 2, 4
CHANNELS = 32
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": CHANNELS,
    "num_res_blocks": LAYERS,
    "attention_resolutions": [4, 2, 1], "channel_mult": [1, 1, 2, 2], "num_heads": 8, "transformer_depth": 1,
    "use_spatial_transformer": True, "context_dim": WIDTH, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": CHANNELS,
    "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
LDM = "comfy.hazard.ldm"


def write(folder: Path, tokenizer: Path) -> Path:
    """Checkpoint, one file, pictures, LoRA and embedding below `folder`; returns the diffusers folder.

    Args:
        tokenizer: folder with CLIP's vocab.json and merges.txt.
    """
    source = folder / "diffusers"
    torch.manual_seed(11)
    shutil.copytree(tokenizer, source / "tokenizer", dirs_exist_ok=True)
    text = CLIPTextModel(text_config())
    text.save_pretrained(source / "text_encoder")
    families.loud(families.unet("sd1", layers_per_block=LAYERS, sample_size=3 * SIDE // 8)).save_pretrained(
        source / "unet"
    )
    families.autoencoder_kl().save_pretrained(source / "vae")
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(source / "scheduler")  # fmt: skip
    write_file(source, folder / "small.safetensors")
    write_config(folder, text.config)
    write_inputs(folder)
    write_lora(source, folder / "loras")
    return source


def text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=1, projection_dim=WIDTH, max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip


def write_file(source: Path, file: Path) -> None:
    unet, vae, text = (
        load_file(next((source / part).glob("*.safetensors"))) for part in ("unet", "vae", "text_encoder")
    )
    found = {f"model.diffusion_model.{k}": v for k, v in originals.unet_names(unet, LAYERS).items()}
    found |= {f"first_stage_model.{k}": v for k, v in originals._vae(vae).items()}
    found |= originals._clip(text, "cond_stage_model.transformer.")
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, file)


def write_config(folder: Path, text: CLIPTextConfig) -> None:
    """ComfyUI's `v1-inference.yaml` with the small sizes (YAML reads JSON)."""
    text_file = folder / "text.json"
    text_file.write_text(text.to_json_string(), "utf-8")
    params = {
        "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "num_timesteps_cond": 1,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {"target": f"{LDM}.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
        "first_stage_config": {"params": {
            "embed_dim": 4, "ddconfig": VAE, "lossconfig": {"target": "torch.nn.Identity"},
        }},
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"textmodel_json_config": str(text_file)},
        },
    }  # fmt: skip
    config = {"model": {"target": f"{LDM}.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    (folder / "small.yaml").write_text(json.dumps(config), "utf-8")


def write_inputs(folder: Path) -> None:
    """A picture, a mask of whole latents, an embedding of two vectors."""
    for name in ("input", "embeddings", "loras"):
        (folder / name).mkdir(exist_ok=True)
    across = np.linspace(0, 255, SIDE)
    red, green = np.meshgrid(across, across)
    pixels = np.stack([red, green, 255 * (np.hypot(red - 90, green - 120) < 60)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "input/photo.png")
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[32:96, 16:80] = 255
    Image.fromarray(mask).save(folder / "input/mask.png")
    save_file({"emb_params": torch.randn(2, WIDTH) * 0.05}, folder / "embeddings/twotokens.safetensors")


def write_lora(source: Path, folder: Path) -> None:
    """kohya's names; every attention projection and feed-forward layer of both models."""
    found = {}
    for part, prefix in (("unet", "lora_unet"), ("text_encoder", "lora_te_text_model")):
        state = load_file(next((source / part).glob("*.safetensors")))
        for name, weight in state.items():
            name = name.removesuffix(".weight").removeprefix("text_model.")
            if weight.ndim != 2 or not any(kind in name for kind in ("attn", ".ff.", "mlp")):
                continue
            key = f"{prefix}_{name.replace('.', '_')}"
            found[f"{key}.lora_down.weight"] = torch.randn(RANK, weight.shape[1]) / RANK
            found[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], RANK) * 0.05
            found[f"{key}.alpha"] = torch.tensor(2.0)
    save_file(found, folder / "small.safetensors")
