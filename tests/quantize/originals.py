"""A diffusers folder written as one file in the original layout: the way back of what `original` reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import families
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_original(folder: Path, family: str, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """`family` as in `families.FAMILIES`; what only training needs is added, as such files have it."""
    found = {f"model.diffusion_model.{k}": v for k, v in unet_names(_load(folder / "unet")).items()}
    found |= {f"first_stage_model.{k}": v for k, v in _vae(_load(folder / "vae")).items()}
    text = _load(folder / "text_encoder")
    if families.is_sdxl(family):
        second = _load(folder / "text_encoder_2")
        found |= _clip(text, "conditioner.embedders.0.transformer.")
        found |= _open_clip(second, "conditioner.embedders.1.model.", extra_layer=False)
    elif family in ("sd2", "sd_turbo"):
        found |= _open_clip(text, "cond_stage_model.model.", extra_layer=True)
    else:
        found |= _clip(text, "cond_stage_model.transformer.")
    extras = {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(())}
    tensors = {name: tensor.to(dtype).contiguous().clone() for name, tensor in {**found, **extras}.items()}
    save_file(tensors, file)
    return file


def _load(part: Path) -> Tensors:
    return load_file(next(part.glob("*.safetensors")))


def unet_names(state: Tensors, layers: int = 1) -> Tensors:
    """A denoiser under its original names; a level has `layers` of each kind, then halves or doubles."""
    return {_unet_name(name, state, layers): tensor for name, tensor in state.items()}


def _unet_name(name: str, state: Tensors, layers: int) -> str:
    for ours, theirs in _ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    kind, rest = name.split(".", 1)
    if kind == "mid_block":
        part, number, rest = rest.split(".", 2)
        return f"middle_block.{2 * int(number) if part == 'resnets' else 1}.{_inner(part, rest)}"
    level, part, number, rest = rest.split(".", 3)
    first = int(level) * (layers + 1)
    if part == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        has_attention = any(other.startswith(f"up_blocks.{level}.attentions") for other in state)
        return f"output_blocks.{first + layers}.{2 if has_attention else 1}.{rest}"
    side, begin = ("input_blocks", first + 1) if kind == "down_blocks" else ("output_blocks", first)
    place = begin + int(number)
    return f"{side}.{place}.{0 if part == 'resnets' else 1}.{_inner(part, rest)}"


def _inner(part: str, rest: str) -> str:
    if part != "resnets":
        return rest
    name, end = rest.rsplit(".", 1)
    return f"{_RESNET[name]}.{end}"


def _vae(state: Tensors) -> Tensors:
    found = {}
    for name, tensor in state.items():
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("conv_norm_out", "norm_out")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
        name = name.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in name:
            for ours, theirs in _VAE_ATTENTION.items():
                name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[name] = tensor
    return found


def _clip(state: Tensors, prefix: str) -> Tensors:
    named = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    positions = {f"{prefix}text_model.embeddings.position_ids": torch.arange(families.TOKENS)[None]}
    return {**{f"{prefix}text_model.{name}": tensor for name, tensor in named.items()}, **positions}


def _open_clip(state: Tensors, prefix: str, extra_layer: bool) -> Tensors:
    """`extra_layer`: the file also has the last layer, which Stable Diffusion 2 does not read."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    width = state["final_layer_norm.weight"].shape[0]
    found: dict[str, Any] = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state.get("text_projection.weight", torch.randn(width, width)).T,
        "logit_scale": torch.ones(()),
    }
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
    for i in range(layers):
        found |= _open_clip_layer(state, f"encoder.layers.{i}.", f"transformer.resblocks.{i}.")
    if extra_layer:
        found |= _open_clip_layer(state, "encoder.layers.0.", f"transformer.resblocks.{layers}.")
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def _open_clip_layer(state: Tensors, ours: str, theirs: str) -> Tensors:
    found = {
        f"{theirs}{new}.{end}": state[f"{ours}{old}.{end}"]
        for old, new in _OPEN_CLIP.items()
        for end in ("weight", "bias")
    }
    for end in ("weight", "bias"):
        parts = [state[f"{ours}self_attn.{p}_proj.{end}"] for p in "qkv"]
        found[f"{theirs}attn.in_proj_{end}"] = torch.cat(parts)
    return found
