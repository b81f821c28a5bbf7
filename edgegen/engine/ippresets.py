"""What IPAdapterUnifiedLoader's presets stand for: files as published at huggingface.co/h94/IP-Adapter."""

from __future__ import annotations

from collections.abc import Iterable

from ..component import Component, Kind
from ..errors import PackError
from .workbench import Workbench

VIT_H, VIT_G = "CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP-ViT-bigG-14-laion2B-39B-b160k"
_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "LIGHT - SD1.5 only (low strength)": {"sd1": ("ip-adapter_sd15_light_v11", "ip-adapter_sd15_light")},
    "STANDARD (medium strength)": {"sd1": ("ip-adapter_sd15",), "sdxl": ("ip-adapter_sdxl_vit-h",)},
    "VIT-G (medium strength)": {"sd1": ("ip-adapter_sd15_vit-G",), "sdxl": ("ip-adapter_sdxl",)},
    "PLUS (high strength)": {"sd1": ("ip-adapter-plus_sd15",), "sdxl": ("ip-adapter-plus_sdxl_vit-h",)},
    "PLUS FACE (portraits)": {
        "sd1": ("ip-adapter-plus-face_sd15",),
        "sdxl": ("ip-adapter-plus-face_sdxl_vit-h",),
    },
}
PRESETS = tuple(_FILES)
_AS = {"lcm": "sd1"}  # families whose layers are those of another
_WITH_G = "VIT-G"


def presets_for(family: str) -> list[str]:
    """The presets that there are for a pack's family."""
    return [preset for preset, files in _FILES.items() if _AS.get(family, family) in files]


def preset_files(bench: Workbench, preset: str, family: str) -> tuple[Component | str, Component | str]:
    """Adapter and image encoder; of one that is not installed its file's name."""
    adapters = _FILES[preset].get(_AS.get(family, family), ())
    vision = VIT_G if preset.startswith(_WITH_G) else VIT_H
    return _first(bench, "ip_adapter", adapters), _first(bench, "clip_vision", (vision,))


def _first(bench: Workbench, kind: Kind, names: Iterable[str]) -> Component | str:
    missing = ""
    for name in names:
        try:
            return bench.component_for(kind, f"{name}.safetensors")
        except PackError:
            missing = missing or f"{name}.safetensors"
    return missing
