"""Pictures as part of the prompt: image encoders and IP-Adapters.

Names, inputs, defaults and ranges of the IPAdapter nodes are those of the extension ComfyUI_IPAdapter_plus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...component import Component
from ...diffusion.clippicture import CROPS
from ...pack import Manifest
from ...workflow.declare import (
    CLIP_VISION,
    CLIP_VISION_OUTPUT,
    COMBO,
    FLOAT,
    IMAGE,
    IPADAPTER,
    MASK,
    MODEL,
    Input,
)
from ..clipvision import ClipVision
from ..imageprompt import LOOKING, SCALINGS, V_ONLY, ImagePrompt, IpAdapter, misfit, takes_several
from ..imageweights import EASE_OUT, LINEAR, STYLE, WEIGHT_TYPES, layer_weights
from ..ippresets import PRESETS, preset_files, presets_for
from ..shownpictures import COMBINATIONS, combined, seen_pictures
from ..stages import Stages
from ..workbench import Workbench
from .base import ComponentLoader, Node, refuse

SIMPLE_TYPES = {"standard": LINEAR, "prompt is more important": EASE_OUT, "style transfer": STYLE}
PART = {"start_at": Input(FLOAT, 0.0, 0.0, 1.0), "end_at": Input(FLOAT, 1.0, 0.0, 1.0)}
SUBJECT = {"model": Input(MODEL), "ipadapter": Input(IPADAPTER), "image": Input(IMAGE)}
AGAIN = "make it again with: python -m quantize ... --with-ip-adapter"
NO_VISION = (
    "the adapter comes without an image encoder: connect clip_vision (CLIPVisionLoader), or load both with "
    "IPAdapterUnifiedLoader"
)


@dataclass(frozen=True)
class LoadedAdapter:
    """IPADAPTER: an adapter, and the image encoder that came with it, if one did."""

    adapter: IpAdapter
    vision: ClipVision | None = None


class CLIPVisionLoader(ComponentLoader):
    """A file's name stands for a pack of kind `clip_vision`; nothing is loaded yet."""

    KIND, NAME = "clip_vision", "clip_name"
    INPUTS = {"clip_name": Input(COMBO)}
    OUTPUTS = (CLIP_VISION,)

    def run(self, bench: Workbench, clip_name: str) -> tuple[Any, ...]:
        return (bench.clip_vision(bench.component_for(self.KIND, clip_name)),)


class CLIPVisionEncode(Node):
    """What an image encoder sees in pictures."""

    INPUTS = {
        "clip_vision": Input(CLIP_VISION),
        "image": Input(IMAGE),
        "crop": Input(COMBO, choices=CROPS),
    }
    OUTPUTS = (CLIP_VISION_OUTPUT,)

    def run(self, bench: Workbench, clip_vision: ClipVision, image: np.ndarray, crop: str) -> tuple[Any, ...]:
        return (clip_vision.see(image, crop),)


class IPAdapterModelLoader(ComponentLoader):
    """A file's name stands for a pack of kind `ip_adapter`; nothing is loaded yet."""

    KIND, NAME = "ip_adapter", "ipadapter_file"
    INPUTS = {"ipadapter_file": Input(COMBO)}
    OUTPUTS = (IPADAPTER,)

    def run(self, bench: Workbench, ipadapter_file: str) -> tuple[Any, ...]:
        return (LoadedAdapter(bench.ip_adapter(bench.component_for(self.KIND, ipadapter_file))),)


class IPAdapterUnifiedLoader(Node):
    """An adapter and its image encoder by what they are good for; files as they are published."""

    INPUTS = {
        "model": Input(MODEL),
        "preset": Input(COMBO, choices=PRESETS),
        "ipadapter": Input(IPADAPTER, optional=True),
    }
    OUTPUTS = (MODEL, IPADAPTER)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        found = [preset_files(bench, values["preset"], family) for family in ("sd1", "sdxl")]
        return repr(
            [c.manifest.model_dump_json() for pair in found for c in pair if isinstance(c, Component)]
        )

    def run(
        self, bench: Workbench, model: Stages, preset: str, ipadapter: LoadedAdapter | None = None
    ) -> tuple[Any, ...]:
        adapter, vision = _of_preset(bench, preset, model.pack.manifest)
        return model, LoadedAdapter(bench.ip_adapter(adapter), bench.clip_vision(vision))


def _of_preset(bench: Workbench, preset: str, manifest: Manifest) -> tuple[Component, Component]:
    if problem := preset_problem(bench, preset, manifest):
        raise refuse("preset", preset, problem)
    adapter, vision = preset_files(bench, preset, manifest.family)
    assert isinstance(adapter, Component) and isinstance(vision, Component)
    return adapter, vision


def preset_problem(bench: Workbench, preset: str, manifest: Manifest) -> str | None:
    """Why a preset cannot be had with a pack, or None."""
    if preset not in (known := presets_for(manifest.family)):
        return f"is not published for packs of family {manifest.family}; take {', '.join(known) or 'none'}"
    found = preset_files(bench, preset, manifest.family)
    missing = [name for name in found if isinstance(name, str)]
    return f"wants packs that are not installed: {', '.join(missing)}" if missing else None


class _Looking(Node):
    """What both nodes share that show a picture to a denoiser."""

    OUTPUTS = (MODEL,)

    def shown(
        self,
        model: Stages,
        ipadapter: LoadedAdapter,
        image: np.ndarray,
        weight: float,
        weight_type: str,
        start_at: float,
        end_at: float,
        combine_embeds: str = COMBINATIONS[0],
        embeds_scaling: str = V_ONLY,
        image_negative: np.ndarray | None = None,
        clip_vision: ClipVision | None = None,
        attn_mask: np.ndarray | None = None,
    ) -> Stages:
        adapter, vision = ipadapter.adapter, clip_vision or ipadapter.vision
        if vision is None:
            raise refuse("clip_vision", None, NO_VISION)
        for name, problem in looking_problems(model, adapter.component, vision.component, attn_mask):
            raise refuse(name, adapter.component.name, problem)
        layers = model.pack.manifest.ip_layers or []
        try:
            weights = layer_weights(weight_type, weight, layers)
        except ValueError as err:
            raise refuse("weight_type", weight_type, str(err)) from None
        if not any(weights):
            return model
        for part in (vision, adapter):
            part.use(model.memory)
        sides = seen_pictures(vision, adapter.component.manifest.reads or "", image, image_negative)
        told = [adapter.tokens(side) for side in combined(*sides, combine_embeds)]
        wanted, unwanted = (
            tokens.scaled(layers, weights, embeds_scaling).joined().heard_in(start_at, end_at, attn_mask)
            for tokens in told
        )
        return model.with_image(ImagePrompt(wanted, unwanted))


def looking_problems(
    model: Stages, adapter: Component, vision: Component, mask: np.ndarray | None
) -> Iterator[tuple[str, str]]:
    """(input, why a denoiser cannot be shown a picture with these)."""
    manifest = model.pack.manifest
    yield from fit_problems(manifest, adapter, vision)
    yield from older_problems(manifest, bool(model.images), mask is not None)
    if mask is not None and len(mask) != 1:
        yield "attn_mask", f"one mask says where the picture counts; there are {len(mask)}"


def older_problems(manifest: Manifest, is_second: bool, is_masked: bool) -> Iterator[tuple[str, str]]:
    """(input, what a pack cannot whose graph was made before it was known)."""
    if not manifest.ip_layers or takes_several(manifest.ip_layers):
        return
    if is_second:
        yield "model", f"pack {manifest.name} is older and listens to one IP-Adapter at a time; {AGAIN}"
    if is_masked:
        yield "attn_mask", f"pack {manifest.name} is older and knows no masks for IP-Adapters; {AGAIN}"


def fit_problems(
    manifest: Manifest, adapter: Component, vision: Component | None
) -> Iterator[tuple[str, str]]:
    """(input, what does not fit together), by the manifests alone."""
    if f"unet{LOOKING}" not in manifest.graphs:
        yield "model", no_eyes(manifest.name)
    elif problem := misfit(adapter, manifest.name, manifest.ip_layers):
        yield "ipadapter", problem
    if vision is None:
        return
    reads, wants = adapter.manifest.reads, adapter.manifest.reads_width
    has = vision.manifest.embeds_width if reads == "image_embeds" else vision.manifest.states_width
    if has != wants:
        yield (
            "clip_vision",
            f"{vision.name} gives {reads} of {has}, {adapter.name} reads {wants}: another encoder",
        )


def no_eyes(pack: str) -> str:
    """Why a pack's denoiser cannot look at pictures."""
    return f"pack {pack} cannot look at pictures: it has no graph unet{LOOKING}; {AGAIN}"


class IPAdapter(_Looking):
    """A picture as part of the prompt; the image encoder comes with the adapter."""

    INPUTS = {
        **SUBJECT,
        "weight": Input(FLOAT, 1.0, -1.0, 3.0),
        **PART,
        "weight_type": Input(COMBO, choices=tuple(SIMPLE_TYPES)),
        "attn_mask": Input(MASK, optional=True),
    }

    def run(self, bench: Workbench, weight_type: str, **inputs: Any) -> tuple[Any, ...]:
        return (self.shown(weight_type=SIMPLE_TYPES[weight_type], **inputs),)


class IPAdapterAdvanced(_Looking):
    """The same with all that may be said about it."""

    INPUTS = {
        **SUBJECT,
        "weight": Input(FLOAT, 1.0, -1.0, 5.0),
        "weight_type": Input(COMBO, choices=WEIGHT_TYPES),
        "combine_embeds": Input(COMBO, choices=COMBINATIONS),
        **PART,
        "embeds_scaling": Input(COMBO, choices=SCALINGS),
        "image_negative": Input(IMAGE, optional=True),
        "attn_mask": Input(MASK, optional=True),
        "clip_vision": Input(CLIP_VISION, optional=True),
    }

    def run(self, bench: Workbench, **inputs: Any) -> tuple[Any, ...]:
        return (self.shown(**inputs),)
