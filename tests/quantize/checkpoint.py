"""A checkpoint in the layout of Stable Diffusion, tiny and random: real parts, seeded, made in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel

MAX_LENGTH = 16
WIDTH = 16
LATENT_CHANNELS = 4
LATENT_SIDE = 8
DOWNSCALE = 4


def write_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer without merges: every letter is a token. Returns the size of its vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    special = [{"id": vocabulary[t], "content": t, "special": True} for t in tokens[-2:]]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "end_of_word_suffix": "</w>"}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": "1.0", "added_tokens": special, "model": model})
    (folder / "tokenizer.json").write_text(text, "utf-8")
    return len(tokens)


def text_encoder(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": LATENT_SIDE,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "resnet_time_scale_shift": "scale_shift",
    }
    return UNet2DConditionModel(**{**settings, **changes})


def autoencoder_dc() -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(0, 1, 1),
        decoder_layers_per_block=(0, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        downsample_block_type="conv",
        scaling_factor=0.5,
    )


def autoencoder_kl() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=LATENT_SIDE * DOWNSCALE,
    )


def write_checkpoint(folder: Path) -> Path:
    """A whole checkpoint with the anatomy of the built-in pack."""
    torch.manual_seed(7)
    vocabulary = write_tokenizer(folder / "tokenizer")
    text_encoder(vocabulary).save_pretrained(folder / "text_encoder")
    unet().save_pretrained(folder / "unet")
    autoencoder_dc().save_pretrained(folder / "vae")
    DDIMScheduler(
        prediction_type="v_prediction",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    facts = {
        "name": "tiny",
        "title": "Tiny random checkpoint",
        "defaults": {"sampler": "dpmpp_2m", "steps": 3, "guidance": 2.0},
        "licence": "Apache-2.0",
        "provenance": {"source": "random numbers"},
    }
    (folder / "pack_defaults.json").write_text(json.dumps(facts), "utf-8")
    return folder
