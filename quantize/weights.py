"""A checkpoint's models, one at a time, in float32 and for inference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .source import Source


def load_text_encoder(source: Source) -> Any:
    """The CLIP text encoder (transformers CLIPTextModel)."""
    from transformers import CLIPTextModel

    return _load(source, "text_encoder", lambda folder: load_transformers(CLIPTextModel, folder))


def load_text_encoder_2(source: Source) -> Any:
    """SDXL's second text encoder (transformers CLIPTextModelWithProjection)."""
    from transformers import CLIPTextModelWithProjection

    return _load(source, "text_encoder_2", lambda f: load_transformers(CLIPTextModelWithProjection, f))


def load_unet(source: Source) -> Any:
    """The denoiser (diffusers UNet2DConditionModel)."""
    from diffusers import UNet2DConditionModel

    return _load(source, "unet", lambda folder: load_diffusers(UNet2DConditionModel, folder))


def load_vae(source: Source) -> Any:
    """The autoencoder (the diffusers class its config names)."""
    import diffusers

    kind = getattr(diffusers, source.configs["vae"]["_class_name"])
    return _load(source, "vae", lambda folder: load_diffusers(kind, folder))


def _load(source: Source, part: str, from_folder: Callable[[Path], Any]) -> Any:
    if source.layout == "original":
        from .originalweights import load_original

        return load_original(source, part)
    return from_folder(source.folder / part)


def load_transformers(kind: Any, folder: Path) -> Any:
    """A transformers model of a folder, in float32 and for inference."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # there is one overall progress; said in whichever process loads
    return kind.from_pretrained(folder, use_safetensors=True, variant=_variant(folder)).float().eval()


def load_diffusers(kind: Any, folder: Path) -> Any:
    """A diffusers model of a folder, in float32 and for inference."""
    model = _filled(kind, folder) or kind.from_pretrained(
        folder, use_safetensors=True, low_cpu_mem_usage=False, variant=_variant(folder)
    )
    return model.float().eval().requires_grad_(False)


def _filled(kind: Any, folder: Path) -> Any | None:
    """The model with the files' tensors in place of its own: none is made at random first, and those that are
    float32 already stay in their files. None where names are not today's: diffusers knows how to rename."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with torch.device("meta"):
        model = kind.from_config({key: value for key, value in config.items() if key != "_class_name"})
    tensors = dict(_tensors(folder))
    if set(tensors) != set(model.state_dict()):
        return None
    model.load_state_dict(tensors, strict=True, assign=True)
    return None if any(buffer.is_meta for buffer in model.buffers()) else model


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All of a folder's, one file or many, of one variant."""
    variant = _variant(folder)
    for path in sorted(folder.glob("*.safetensors")):
        if (".fp16" in path.name) == (variant == "fp16"):
            with safe_open(path, framework="pt") as file:
                yield from ((name, file.get_tensor(name).float()) for name in file.keys())  # noqa: SIM118


def _variant(folder: Path) -> str | None:
    """`fp16` when the folder holds no other weights."""
    return "fp16" if all(".fp16" in path.name for path in folder.glob("*.safetensors")) else None
