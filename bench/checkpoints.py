"""Checkpoints of full size with random weights, to measure speed and memory where no real one is at hand.

    python bench/checkpoints.py sd15|sdxl-turbo|tiny-sd15 FOLDER [--kl] [--fp16]

Layouts are those of the published configurations (runwayml/stable-diffusion-v1-5, stabilityai/sdxl-turbo,
madebyollin/taesd); words are split by the built-in pack's tokenizer. `tiny-sd15` is SD 1.5 with a quarter of
the channels, for trying things out. The autoencoder is the tiny one, with --kl the checkpoints' own.
Weights are made module by module, so that memory stays below 1 GB. FOLDER/done says that all is written.
Needs the dev environment; sd15 takes 4 GB of disk, sdxl-turbo 14 GB, and half of it with --fp16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENIZER = Path(__file__).resolve().parent.parent / "edgegen/packs/pocket/tokenizer.json"
WEIGHTS = "diffusion_pytorch_model", "model"  # of diffusers, of transformers
EMBEDDING_STD = 0.02  # CLIP's
DTYPES = {torch.float32: "F32", torch.float16: "F16"}
VOCABULARY = 49408  # CLIP's, so that the embedding table has its true size
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 64,
}
KL = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 512,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layout", choices=("sd15", "sdxl-turbo", "tiny-sd15"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kl", action="store_true", help="the KL autoencoder (default: the tiny one)")
    parser.add_argument("--fp16", action="store_true", help="weights in half precision, as `.fp16.` files")
    args = parser.parse_args()
    write(args.layout, args.folder, args.kl, torch.float16 if args.fp16 else torch.float32)


@torch.no_grad()
def write(layout: str, folder: Path, kl: bool, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint in the diffusers layout; a part that is there already stays."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer")
    if layout == "sdxl-turbo":
        write_tokenizer(folder / "tokenizer_2")
    for name, make in parts(layout, kl).items():
        if not any((folder / name).glob("*config.json")):
            save(name, make, folder / name, dtype)
            print(f"{folder / name}", flush=True)
    index = {
        "_class_name": "StableDiffusionXLPipeline" if layout == "sdxl-turbo" else "StableDiffusionPipeline"
    }
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    (folder / "done").touch()


def save(name: str, make: Any, folder: Path, dtype: torch.dtype) -> None:
    """As published, the configuration last: it says that the weights are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "scheduler":
        make().save_config(folder)
        return
    with torch.device("meta"):
        model = make()
    is_clip = isinstance(model, CLIPTextModel | CLIPTextModelWithProjection)
    kind = ".fp16" if dtype == torch.float16 else ""
    write_weights(model, folder / f"{WEIGHTS[is_clip]}{kind}.safetensors", dtype, is_clip)
    if is_clip:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
    else:
        model.save_config(folder)


def write_weights(model: nn.Module, path: Path, dtype: torch.dtype, is_clip: bool) -> None:
    """A safetensors file (github.com/huggingface/safetensors, "Format") of a model on the meta device."""
    header, end = {}, 0
    for name, tensor in model.named_parameters():
        start, end = end, end + tensor.numel() * dtype.itemsize
        header[stored_name(name, is_clip)] = {
            "dtype": DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in filled(model):
            file.seek(8 + len(text) + header[stored_name(name, is_clip)]["data_offsets"][0])
            file.write(tensor.detach().to(dtype).numpy().tobytes())


def stored_name(name: str, is_clip: bool) -> str:
    """Text encoders' weights are named `text_model.`, which newer transformers leave out."""
    return f"text_model.{name}" if is_clip and not name.startswith("text_") else name


def filled(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter with random values, its module's alone in memory."""
    for prefix, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if not names:
            continue
        module.to_empty(device="cpu", recurse=False)
        if isinstance(module, nn.Embedding):
            module.weight.normal_(std=EMBEDDING_STD)
        else:
            module.reset_parameters()
        yield from ((f"{prefix}.{name}" if prefix else name, getattr(module, name)) for name in names)
        module.to_empty(device="meta", recurse=False)


def parts(layout: str, kl: bool) -> dict[str, Any]:
    """Folder -> what makes its model."""
    vae = (lambda: AutoencoderKL(**KL)) if kl else AutoencoderTiny
    if layout == "sdxl-turbo":
        return {
            "scheduler": lambda: EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"),
            "text_encoder": lambda: CLIPTextModel(clip(CLIP_L, hidden_act="quick_gelu")),
            "text_encoder_2": lambda: CLIPTextModelWithProjection(clip(CLIP_G, hidden_act="gelu")),
            "unet": lambda: UNet2DConditionModel(**SDXL_UNET),
            "vae": vae,
        }
    divide = 4 if layout == "tiny-sd15" else 1
    channels = tuple(c // divide for c in (320, 640, 1280, 1280))
    return {
        "scheduler": lambda: DDIMScheduler(
            **BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False
        ),
        "text_encoder": lambda: CLIPTextModel(clip(CLIP_L, hidden_act="quick_gelu")),
        "unet": lambda: UNet2DConditionModel(
            block_out_channels=channels,
            cross_attention_dim=768,
            norm_num_groups=32 // divide,
            sample_size=64,
        ),
        "vae": vae,
    }


def clip(sizes: dict[str, int], hidden_act: str) -> CLIPTextConfig:
    """A CLIP text encoder of these sizes for the tokenizer's own special tokens."""
    ids = json.loads(TOKENIZER.read_text("utf-8"))["model"]["vocab"]
    start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=77,
        projection_dim=sizes["hidden_size"],
        hidden_act=hidden_act,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        **sizes,
    )


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")


if __name__ == "__main__":
    main()
