"""How each part of a checkpoint becomes a graph: its torch module, the names of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import weights
from .attention import ONE_NODE, use_one_node_attention
from .configs import TIME_IDS
from .source import Source

Examples = Callable[[int, tuple[int, int]], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class GraphSpec:
    """How one part of a checkpoint becomes a graph.

    Attributes:
        module: the torch module; its inputs and outputs in the order of the names.
        axes: tensor name -> {axis: name} of all axes that may change between runs.
        examples: (batch, scale) -> inputs; the first is traced, the others only compared.
    """

    role: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    examples: Examples


_PICTURE_AXES = {0: "batch", 2: "height", 3: "width"}
_WORD_AXES = {0: "batch", 1: "sequence"}
_BATCH_AXES = {0: "batch"}


class _TextEncoder(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.text_encoder = model


class _LastStates(_TextEncoder):
    """Normalized states of the last layer, and the end token's alone."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.text_encoder(input_ids)
        return out.last_hidden_state, out.pooler_output


class _PenultimateStates(_TextEncoder):
    """What SDXL reads of its first encoder: states of the last layer but one, not normalized."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.text_encoder(input_ids, output_hidden_states=True).hidden_states[-2]


class _ProjectedStates(_TextEncoder):
    """What SDXL reads of its second encoder: the same, and the end token's state, projected."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.text_encoder(input_ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds


class _Unet(nn.Module):
    """Inputs beyond the words come by name, in the order of `extras`."""

    def __init__(self, model: Any, extras: tuple[str, ...]):
        super().__init__()
        self.unet, self.extras = model, extras

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, words: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        named = dict(zip(self.extras, more, strict=True))
        guidance = named.pop("timestep_cond", None)
        return self.unet(
            sample,
            timestep,
            words,
            timestep_cond=guidance,
            added_cond_kwargs=named or None,
            return_dict=False,
        )[0]


class _VaeDecoder(nn.Module):
    """Takes latents / latent_scale, as the runtime hands them over; adds the shift some autoencoders have."""

    def __init__(self, model: Any, shift: float):
        super().__init__()
        self.vae, self.shift = model, shift

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents + self.shift if self.shift else latents, return_dict=False)[0]


class _VaeEncoder(nn.Module):
    """The mean of the latents, before scaling."""

    def __init__(self, model: Any, shift: float):
        super().__init__()
        self.vae, self.shift = model, shift

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        encoded = self.vae.encode(sample, return_dict=False)[0]
        latents = encoded.mode() if hasattr(encoded, "mode") and not torch.is_tensor(encoded) else encoded
        return latents - self.shift if self.shift else latents


def text_encoder_spec(source: Source) -> GraphSpec:
    """input_ids (batch, sequence) int64 -> last_hidden_state, pooler_output; of SDXL: hidden_states."""
    model = weights.load_text_encoder(source)
    if source.is_sdxl:
        return _words_spec("text_encoder", _PenultimateStates(model), source, ("hidden_states",))
    return _words_spec("text_encoder", _LastStates(model), source, ("last_hidden_state", "pooler_output"))


def text_encoder_2_spec(source: Source) -> GraphSpec:
    """input_ids (batch, sequence) int64 -> hidden_states, text_embeds."""
    module = _ProjectedStates(weights.load_text_encoder_2(source))
    return _words_spec("text_encoder_2", module, source, ("hidden_states", "text_embeds"))


def _words_spec(role: str, module: _TextEncoder, source: Source, outputs: tuple[str, ...]) -> GraphSpec:
    module.text_encoder.set_attn_implementation(ONE_NODE)
    vocabulary = int(module.text_encoder.config.vocab_size)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        length = max(3, source.max_length * scale[0] // scale[1])
        return (torch.randint(0, vocabulary, (batch, length)),)

    pooled = ("pooler_output", "text_embeds")
    axes = {name: _BATCH_AXES if name in pooled else _WORD_AXES for name in ("input_ids", *outputs)}
    return GraphSpec(role, module, ("input_ids",), outputs, axes, examples)


def unet_spec(source: Source) -> GraphSpec:
    """sample (batch, c, h, w), timestep (1,) float32, encoder_hidden_states -> out_sample.

    LCM also takes timestep_cond, SDXL text_embeds and time_ids. Timesteps are float: some spacings lie
    between two training steps.
    """
    model = weights.load_unet(source)
    use_one_node_attention(model)
    step = 2 ** (len(model.config.block_out_channels) - 1)
    widths = unet_extras(source)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size // source.latent_downscale, scale, step)
        sample = torch.randn(batch, source.latent_channels, high, wide)
        words = torch.randn(batch, source.max_length, source.words_width)
        return sample, torch.tensor([501.0]), words, *(_extra(n, batch, w) for n, w in widths.items())

    axes = {"sample": _PICTURE_AXES, "encoder_hidden_states": _WORD_AXES, "out_sample": _PICTURE_AXES}
    axes |= dict.fromkeys(widths, _BATCH_AXES)
    inputs = ("sample", "timestep", "encoder_hidden_states", *widths)
    return GraphSpec("unet", _Unet(model, tuple(widths)), inputs, ("out_sample",), axes, examples)


def unet_extras(source: Source) -> dict[str, int]:
    """Input of the denoiser beside latents, timestep and words -> its width."""
    guidance = source.guidance_embedding_dim
    extras = {"timestep_cond": guidance} if guidance else {}
    if source.is_sdxl:
        pooled = int(source.configs["text_encoder_2"]["projection_dim"])
        extras |= {"text_embeds": pooled, "time_ids": TIME_IDS}
    return extras


def _extra(name: str, batch: int, width: int) -> torch.Tensor:
    """Random, but sizes are sizes in pixels."""
    return torch.rand(batch, width) * 1024 if name == "time_ids" else torch.randn(batch, width)


def vae_decoder_spec(source: Source) -> GraphSpec:
    """latent_sample (batch, c, h, w), already divided by latent_scale -> sample in [-1, 1]."""
    model = weights.load_vae(source)
    use_one_node_attention(model)
    module = _VaeDecoder(model, source.latent_shift)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size // source.latent_downscale, scale, 1)
        return (torch.randn(batch, source.latent_channels, high, wide),)

    axes = {"latent_sample": _PICTURE_AXES, "sample": _PICTURE_AXES}
    return GraphSpec("vae_decoder", module, ("latent_sample",), ("sample",), axes, examples)


def vae_encoder_spec(source: Source) -> GraphSpec:
    """sample (batch, 3, H, W) in [-1, 1] -> latent_sample, before scaling."""
    model = weights.load_vae(source)
    use_one_node_attention(model)
    module = _VaeEncoder(model, source.latent_shift)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size, scale, source.latent_downscale)
        return (torch.rand(batch, 3, high, wide) * 2 - 1,)

    axes = {"sample": _PICTURE_AXES, "latent_sample": _PICTURE_AXES}
    return GraphSpec("vae_encoder", module, ("sample",), ("latent_sample",), axes, examples)


def _sides(side: int, scale: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A square at scale 1/1; else lower than wide, so that swapped axes show."""
    high = max(multiple, side * scale[0] // scale[1] // multiple * multiple)
    return (high, high) if scale == (1, 1) else (high, high + multiple)


SPECS: dict[str, Callable[[Source], GraphSpec]] = {
    "text_encoder": text_encoder_spec,
    "text_encoder_2": text_encoder_2_spec,
    "unet": unet_spec,
    "vae_decoder": vae_decoder_spec,
    "vae_encoder": vae_encoder_spec,
}
