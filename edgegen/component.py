"""Packs that only help others to make pictures, in workflows: upscalers, ControlNets, image encoders and
IP-Adapters.

Folder, `pack.json` and graphs are those of every pack; the manifest has a `kind`, but no tokenizer and no
defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .errors import PackError, UnknownPack
from .pack import (
    PackFolder,
    PackHead,
    candidates,
    check_sizes,
    component_kind,
    parse_head,
    read_pack_json,
)

Kind = Literal["upscaler", "controlnet", "clip_vision", "ip_adapter"]
Width = Annotated[int, Field(ge=1, le=1 << 16)]
NEEDS: dict[str, tuple[str, ...]] = {
    "controlnet": ("words_width",),
    "clip_vision": ("image_size", "embeds_width", "states_width"),
    "ip_adapter": ("reads", "reads_width", "tokens", "ip_channels", "words_width"),
}
"""Kind -> what its manifest must say beyond what all say."""


class ComponentManifest(PackHead):
    """`pack.json` of a component.

    An upscaler has a graph `upscaler`: `image` (b, 3, h, w) float32, 0 black to 1 white -> `upscaled`, of
    `scale` times the sides, which must be multiples of `multiple`.
    A ControlNet has a graph `controlnet`: the denoiser's inputs and `controlnet_cond` (b, 3, H, W) float32, 0
    to 1, of `hint_scale` pixels a latent -> `down_residual_0`, .., `mid_residual`. It speaks to denoisers
    that read words of `words_width` channels.
    An image encoder has a graph `clip_vision`: `pixel_values` (b, 3, image_size, image_size) float32,
    normalized -> `image_embeds` (b, embeds_width) and, of the last layer but one, `hidden_states` (b, rows,
    states_width).
    An IP-Adapter has a graph `ip_adapter`: what it `reads` of an image encoder, `reads_width` channels ->
    `ip_keys` and `ip_values` (b, tokens, channels), those of all layers of a denoiser side by side, of
    `ip_channels` each.
    """

    kind: Kind
    scale: int = Field(1, ge=1, le=16)
    multiple: int = Field(1, ge=1, le=64)
    words_width: int | None = Field(None, ge=1, le=1 << 16)
    hint_scale: int = Field(8, ge=1, le=64)
    image_size: int | None = Field(None, ge=16, le=1024)
    embeds_width: Width | None = None
    states_width: Width | None = None
    reads: Literal["image_embeds", "hidden_states"] | None = None
    reads_width: Width | None = None
    tokens: int | None = Field(None, ge=1, le=4096)
    ip_channels: list[Width] | None = Field(None, min_length=1, max_length=1024)

    @property
    def does(self) -> str:
        """What it is good for, in a few words."""
        if self.kind == "upscaler":
            return f"{self.scale}x larger"
        if self.kind == "clip_vision":
            return f"pictures as {self.embeds_width} and rows of {self.states_width}"
        return f"words of {self.words_width}"

    @model_validator(mode="after")
    def _has_its_graph(self) -> ComponentManifest:
        if self.kind not in self.graphs:
            raise ValueError(f"graphs: missing {self.kind}")
        if missing := [name for name in NEEDS.get(self.kind, ()) if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(missing)}: missing")
        return self


@dataclass(frozen=True)
class Component(PackFolder):
    """An opened component."""

    manifest: ComponentManifest

    @classmethod
    def open(cls, folder: Path | str) -> Component:
        """As `Pack.open`. Raises PackError, also for a pack that makes pictures itself."""
        folder = Path(folder)
        manifest = read_component(folder)
        check_sizes(folder, manifest)
        return cls(folder, manifest)


def read_component(folder: Path) -> ComponentManifest:
    """Parse and check `folder/pack.json`. Raises PackError with every problem at once."""
    data = read_pack_json(folder)
    if component_kind(data) is None:
        raise PackError(f"pack in {folder} makes pictures from words; it is no part for others")
    return parse_head(ComponentManifest, folder, data)


def scan_components(folders: Iterable[Path]) -> tuple[list[Component], dict[Path, PackError]]:
    """All components in the folders (of two with one name the first counts), and the broken ones."""
    found: dict[str, Component] = {}
    broken: dict[Path, PackError] = {}
    for folder in _component_folders(folders):
        try:
            component = Component.open(folder)
            found.setdefault(component.name, component)
        except PackError as err:
            broken[folder] = err
    return list(found.values()), broken


def _component_folders(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in candidates(folders):
        try:
            is_component = component_kind(read_pack_json(folder)) is not None
        except PackError:
            continue  # `scan_packs` tells of it
        if is_component:
            yield folder


def pick(name: str, found: Iterable[Component], broken: dict[Path, PackError]) -> Component:
    """The component of a name. Raises UnknownPack, or PackError for one that is broken."""
    by_name = {component.name: component for component in found}
    if name in by_name:
        return by_name[name]
    for folder, err in broken.items():
        if folder.name == name:
            raise err
    near = difflib.get_close_matches(name, by_name, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    installed = ", ".join(by_name) or "none"
    raise UnknownPack(f"no such pack for workflows: {name[:64]!r}.{hint} Installed: {installed}.")
