"""The models of a single file in the original layout, renamed by diffusers' own converters, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as ldm
from safetensors import safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .original import CLIP, OPEN_CLIP, UNET, VAE
from .refusal import SourceError
from .source import Source

Tensors = dict[str, torch.Tensor]


def load_original(source: Source, part: str) -> nn.Module:
    """`text_encoder`, `text_encoder_2`, `unet` or `vae`, in float32 and for inference.

    Raises:
        SourceError: tensors are missing, of another shape, or of no known use.
    """
    config = source.configs[part]
    if part == "unet":
        convert = ldm.convert_ldm_unet_checkpoint
        return _diffusers_model(source, UNet2DConditionModel, config, UNET, convert)
    if part == "vae":
        return _diffusers_model(source, AutoencoderKL, config, VAE, ldm.convert_ldm_vae_checkpoint)
    family = source.family
    if part == "text_encoder" and family != "sd2":
        return _clip(source, CLIP[family])
    return _open_clip(source, part, OPEN_CLIP[family])


def _diffusers_model(
    source: Source, kind: Any, config: dict[str, Any], prefix: str, convert: Any
) -> nn.Module:
    with torch.device("meta"):  # the file's tensors take the place of all of them
        model = kind.from_config({k: v for k, v in config.items() if k != "_class_name"})
    tensors = _tensors(source, prefix)
    renamed = convert(tensors, model.config)
    if len(renamed) != len(tensors):
        raise SourceError(
            f"{source.folder}: {len(tensors) - len(renamed)} tensors of {prefix} are of no known use"
        )
    return _filled(source, model, renamed, prefix)


def _clip(source: Source, prefix: str) -> nn.Module:
    tensors = _tensors(source, prefix)
    model = CLIPTextModel(_clip_config(source, "text_encoder"))
    return _filled(source, model, ldm.convert_ldm_clip_checkpoint(tensors), prefix)


def _open_clip(source: Source, part: str, prefix: str) -> nn.Module:
    kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    model = kind(_clip_config(source, part))
    layers = int(source.configs[part]["num_hidden_layers"])
    tensors = {name: t for name, t in _tensors(source, prefix).items() if _layer(name) < layers}
    renamed = ldm.convert_open_clip_checkpoint(model, tensors, prefix)
    if kind is CLIPTextModel:
        renamed.pop("text_projection.weight", None)
    return _filled(source, model, renamed, prefix)


def _clip_config(source: Source, part: str) -> CLIPTextConfig:
    return CLIPTextConfig(**{k: v for k, v in source.configs[part].items() if k != "model_type"})


def _layer(name: str) -> int:
    """Number of the layer a tensor belongs to; -1 for none."""
    _, found, rest = name.partition(".resblocks.")
    return int(rest.split(".")[0]) if found else -1


def _tensors(source: Source, prefix: str) -> Tensors:
    """Tensors of one part, in float32. Position ids are counted, not learned."""
    with safe_open(source.folder, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no dict
        return {n: file.get_tensor(n).float() for n in names if not n.endswith(".position_ids")}


def _filled(source: Source, model: nn.Module, tensors: Tensors, prefix: str) -> nn.Module:
    if not hasattr(model, "text_model"):  # newer transformers: CLIPTextModel has no inner model
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as err:
        raise SourceError(
            f"{source.folder}: {prefix} does not fit: {' '.join(str(err).split())[:400]}"
        ) from None
    return model.eval().requires_grad_(False)
