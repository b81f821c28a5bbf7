"""Make `tests/packs/families`: tiny packs of the other families, in the layout of `tests/packs/tiny`.

Run it with the quantize extra installed: `python -m tests.make_tiny_families`. Parity tests build the same
models and compare them with diffusers' pipelines.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from edgegen.pack import (
    Defaults,
    Manifest,
    SecondTokenizer,
    Sizes,
    TokenizerEntry,
    file_entry,
    write_manifest,
)
from tests.make_tiny_pack import MAX_LENGTH, OUT, VaeDecoder, export, graph_entry

FAMILIES = OUT.parent / "families"
VOCABULARY = 601
WIDTH, WIDTH_2 = 8, 12
TIME_DIM = 8
GUIDANCE_DIM = 16
SPACE = {0: "batch", 2: "height", 3: "width"}
ROW = {0: "batch"}
PAD_2 = 0


@dataclass
class Parts:
    """A family's modules, as a diffusers pipeline takes them; `fields` is what its manifest says else."""

    family: str
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection | None = None
    decoder: VaeDecoder = field(default_factory=VaeDecoder)
    fields: dict[str, Any] = field(default_factory=dict)


def text_encoder(kind: type, width: int, layers: int = 2) -> Any:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=width,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        attn_implementation="eager",
    )
    model = kind(config).eval()
    for p in model.parameters():  # CLIP starts near zero: words would hardly matter
        torch.nn.init.normal_(p, std=0.3)
    return model


def unet(width: int, **changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "cross_attention_dim": width,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    model = UNet2DConditionModel(**(settings | changes)).eval()
    model.set_attn_processor(AttnProcessor())
    torch.nn.init.normal_(model.conv_out.weight, std=0.3)
    return model


def plain_parts() -> Parts:
    """Stable Diffusion 1 and 2, SD-Turbo."""
    torch.manual_seed(21)
    return Parts("sd2", unet(WIDTH, use_linear_projection=True), text_encoder(CLIPTextModel, WIDTH))


def xl_parts() -> Parts:
    torch.manual_seed(22)
    denoiser = unet(
        WIDTH + WIDTH_2,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_DIM,
        projection_class_embeddings_input_dim=WIDTH_2 + 6 * TIME_DIM,
    )
    encoders = text_encoder(CLIPTextModel, WIDTH), text_encoder(CLIPTextModelWithProjection, WIDTH_2)
    fields = {"tokenizer_2": SecondTokenizer(pad_token_id=PAD_2), "latent_scale": 0.13025}
    return Parts("sdxl", denoiser, *encoders, fields=fields)


def lcm_parts() -> Parts:
    torch.manual_seed(23)
    denoiser = unet(WIDTH, time_cond_proj_dim=GUIDANCE_DIM)
    fields = {
        "guidance_embedding_dim": GUIDANCE_DIM,
        "defaults": Defaults(sampler="lcm", steps=2, guidance=8.5, width=64, height=64),
    }
    return Parts("lcm", denoiser, text_encoder(CLIPTextModel, WIDTH), fields=fields)


class _Encoder(torch.nn.Module):
    """What the family reads of a text encoder, by name of its outputs."""

    def __init__(self, clip: Any, outputs: list[str]):
        super().__init__()
        self.clip, self.outputs = clip, outputs

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.clip(input_ids, output_hidden_states=True)
        return tuple(out.hidden_states[-2] if n == "hidden_states" else out[n] for n in self.outputs)


class _Denoiser(torch.nn.Module):
    def __init__(self, model: UNet2DConditionModel, more: list[str]):
        super().__init__()
        self.unet, self.more = model, more

    def forward(self, sample: Any, timestep: Any, words: Any, *more: torch.Tensor) -> torch.Tensor:
        told = dict(zip(self.more, more, strict=True))
        condition = told.pop("timestep_cond", None)
        return self.unet(
            sample,
            timestep,
            words,
            timestep_cond=condition,
            added_cond_kwargs=told or None,
            return_dict=False,
        )[0]


def encoder_outputs(parts: Parts) -> dict[str, list[str]]:
    """Outputs by role."""
    if parts.text_encoder_2 is None:
        return {"text_encoder": ["last_hidden_state", "pooler_output"]}
    return {"text_encoder": ["hidden_states"], "text_encoder_2": ["hidden_states", "text_embeds"]}


def more_inputs(parts: Parts) -> dict[str, torch.Tensor]:
    """What the denoiser is told beside the words."""
    if parts.text_encoder_2 is not None:
        return {"text_embeds": torch.randn(2, WIDTH_2), "time_ids": torch.rand(2, 6) * 1000}
    if dim := parts.fields.get("guidance_embedding_dim"):
        return {"timestep_cond": torch.randn(2, dim)}
    return {}


@torch.no_grad()
def write_pack(parts: Parts, folder: Path, name: str, **fields: Any) -> Path:
    """The modules as a pack; `fields` are the manifest's."""
    ids = torch.randint(0, VOCABULARY, (2, MAX_LENGTH))
    for role, outputs in encoder_outputs(parts).items():
        axes = dict.fromkeys(["input_ids", *outputs], ROW)
        module = _Encoder(getattr(parts, role), outputs)
        export(module, {"input_ids": ids}, outputs, axes, folder / role / "model.onnx")
    width = parts.unet.config.cross_attention_dim
    latents, words = torch.randn(2, 4, 8, 8), torch.randn(2, MAX_LENGTH, width)
    more = more_inputs(parts)
    told = {"sample": latents, "timestep": torch.tensor([500.0]), "encoder_hidden_states": words, **more}
    axes = {"sample": SPACE, "out_sample": SPACE, "encoder_hidden_states": ROW} | dict.fromkeys(more, ROW)
    export(_Denoiser(parts.unet, list(more)), told, ["out_sample"], axes, folder / "unet" / "model.onnx")
    axes = {"latent_sample": SPACE, "sample": SPACE}
    path = folder / "vae_decoder" / "model.onnx"
    export(parts.decoder, {"latent_sample": latents}, ["sample"], axes, path)
    shutil.copy(OUT / "tokenizer.json", folder)
    roles = [*encoder_outputs(parts), "unet", "vae_decoder"]
    write_manifest(folder, manifest(folder, roles, parts, name=name, **fields))
    return folder


def manifest(folder: Path, roles: list[str], parts: Parts, **fields: Any) -> Manifest:
    token_file = file_entry(folder / "tokenizer.json").model_dump()
    usual = {
        "title": "Random weights, for tests",
        "family": parts.family,
        "graphs": {role: graph_entry(folder, f"{role}/model.onnx") for role in roles},
        "tokenizer": TokenizerEntry(file="tokenizer.json", max_length=MAX_LENGTH, **token_file),
        "prediction_type": "epsilon",
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "latent_channels": 4,
        "latent_scale": 0.18215,
        "defaults": Defaults(sampler="euler", steps=2, guidance=3.0, width=64, height=64),
        "sizes": Sizes(min=32, max=128, multiple=16),
        "min_ram_mb": 64,
        "licence": "Apache-2.0",
        "provenance": {"made_by": "tests/make_tiny_families.py"},
    }
    return Manifest(**(usual | parts.fields | fields))


def main() -> None:
    shutil.rmtree(FAMILIES, ignore_errors=True)
    for name, parts in {"tiny-xl": xl_parts(), "tiny-lcm": lcm_parts()}.items():
        write_pack(parts, FAMILIES / name, name)


if __name__ == "__main__":
    main()
