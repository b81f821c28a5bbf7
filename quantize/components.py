"""What may become a pack that only helps others: how each kind is found, exported and told of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgegen.component import Kind

from .clipvision import ClipVisionLayout, clip_vision_spec, find_clip_vision
from .controlnets import ControlNetLayout, controlnet_spec, find_controlnet
from .ipadapters import IpAdapterLayout, find_ip_adapter
from .upscalerkeys import UpscalerLayout, find_upscaler

if TYPE_CHECKING:
    from .specs import GraphSpec

Layout = UpscalerLayout | ControlNetLayout | ClipVisionLayout | IpAdapterLayout
_KINDS: dict[type, Kind] = {
    UpscalerLayout: "upscaler",
    ControlNetLayout: "controlnet",
    ClipVisionLayout: "clip_vision",
    IpAdapterLayout: "ip_adapter",
}


def find_component(path: Path) -> Layout | None:
    """What lies at a path; None: something else. Weights are not loaded.

    Raises:
        SourceError: it is of a kind that is not read, or damaged.
    """
    return find_upscaler(path) or find_ip_adapter(path) or find_controlnet(path) or find_clip_vision(path)


def kind_of(layout: Layout) -> Kind:
    """The kind of pack it becomes."""
    return _KINDS[type(layout)]


def spec_of(path: Path, layout: Layout) -> GraphSpec:
    """How it becomes a graph; loads its weights."""
    if isinstance(layout, UpscalerLayout):
        from .upscalers import upscaler_spec

        return upscaler_spec(path, layout)
    if isinstance(layout, ControlNetLayout):
        return controlnet_spec(path, layout)
    if isinstance(layout, ClipVisionLayout):
        return clip_vision_spec(path, layout)
    from .ipmodules import ip_adapter_spec

    return ip_adapter_spec(path, layout)


def manifest_facts(layout: Layout) -> dict[str, Any]:
    """What the manifest of its kind says."""
    if isinstance(layout, UpscalerLayout):
        return {"scale": layout.scale, "multiple": layout.unshuffle}
    if isinstance(layout, ControlNetLayout):
        return {"words_width": layout.words_width, "hint_scale": layout.downscale}
    if isinstance(layout, ClipVisionLayout):
        return asdict(layout)
    facts = {name: getattr(layout, name) for name in ("reads", "reads_width", "tokens", "words_width")}
    return {**facts, "ip_channels": list(layout.channels)}
