"""A diffusers folder exported to ONNX as others do it: plain attention, whole timesteps, all states."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from quantize import weights
from quantize.source import open_source

_PICTURE = {0: "batch", 2: "height", 3: "width"}
_WORDS = {0: "batch", 1: "sequence"}
_AXES: dict[str, dict[int, str]] = {
    "sample": _PICTURE,
    "latent_sample": _PICTURE,
    "out_sample": _PICTURE,
    "input_ids": _WORDS,
    "encoder_hidden_states": _WORDS,
    "text_embeds": {0: "batch"},
    "time_ids": {0: "batch"},
}


class _Text(torch.nn.Module):
    def __init__(self, model: Any, numbered: bool):
        super().__init__()
        self.model, self.numbered = model, numbered

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.model(input_ids, output_hidden_states=self.numbered)
        first = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
        return first, out.last_hidden_state, *(out.hidden_states if self.numbered else ())


class _Unet(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, sample: Any, timestep: Any, words: Any, *more: Any) -> torch.Tensor:
        told = dict(zip(("text_embeds", "time_ids"), more, strict=True)) if more else None
        return self.model(sample, timestep, words, added_cond_kwargs=told).sample


class _Decoder(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latent_sample).sample


def write_onnx(diffusers: Path, folder: Path) -> Path:
    """Every graph, scheduler/ and tokenizer/; configs beside the graphs only where `diffusers` is SDXL."""
    source = open_source(diffusers)
    torch.manual_seed(2)
    for name in ("scheduler", "tokenizer", "tokenizer_2"):
        if (diffusers / name).exists():
            shutil.copytree(diffusers / name, folder / name)
    for role in ("text_encoder", "text_encoder_2"):
        if role in source.roles:
            _write_text(getattr(weights, f"load_{role}")(source), role, folder, source.is_sdxl)
    unet, vae = weights.load_unet(source), weights.load_vae(source)
    for model in (unet, vae):
        model.set_attn_processor(AttnProcessor())
    inputs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(2, 77, source.words_width),
    }
    if source.is_sdxl:
        inputs |= {"text_embeds": torch.randn(2, 128), "time_ids": torch.rand(2, 6)}
    _export(_Unet(unet), inputs, ["out_sample"], folder / "unet")
    _export(_Decoder(vae), {"latent_sample": torch.randn(2, 4, 8, 8)}, ["sample"], folder / "vae_decoder")
    if source.is_sdxl:
        for role, part in (("unet", "unet"), ("vae_decoder", "vae"), ("text_encoder", "text_encoder")):
            shutil.copy(diffusers / part / "config.json", folder / role / "config.json")
        shutil.copy(diffusers / "text_encoder_2" / "config.json", folder / "text_encoder_2" / "config.json")
    return folder


def _write_text(model: Any, role: str, folder: Path, numbered: bool) -> None:
    model.set_attn_implementation("eager")
    first = "text_embeds" if role == "text_encoder_2" else "pooler_output"
    states = [f"hidden_states.{i}" for i in range(4)] if numbered else []
    ids = torch.randint(0, 514, (2, 77), dtype=torch.int32)
    _export(_Text(model, numbered), {"input_ids": ids}, [first, "last_hidden_state", *states], folder / role)


def _export(module: torch.nn.Module, inputs: dict[str, Any], outputs: list[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    axes = {name: _AXES[name] for name in (*inputs, *outputs) if name in _AXES}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=14,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
        )
