"""Packs that only help others to make pictures, in workflows: upscalers and ControlNets.

Folder, `pack.json` and graphs are those of every pack; the manifest has a `kind`, but no tokenizer and no
defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

Kind = Literal["upscaler", "controlnet"]


class ComponentManifest(PackHead):
    """`pack.json` of a component.

    An upscaler has a graph `upscaler`: `image` (b, 3, h, w) float32, 0 black to 1 white -> `upscaled`, of
    `scale` times the sides, which must be multiples of `multiple`.
    A ControlNet has a graph `controlnet`: the denoiser's inputs and `controlnet_cond` (b, 3, H, W) float32, 0
    to 1, of `hint_scale` pixels a latent -> `down_residual_0`, .., `mid_residual`. It speaks to denoisers
    that read words of `words_width` channels.
    """

    kind: Kind
    scale: int = Field(1, ge=1, le=16)
    multiple: int = Field(1, ge=1, le=64)
    words_width: int | None = Field(None, ge=1, le=1 << 16)
    hint_scale: int = Field(8, ge=1, le=64)

    @property
    def does(self) -> str:
        """What it is good for, in a few words."""
        if self.kind == "upscaler":
            return f"{self.scale}x larger"
        return f"words of {self.words_width}"

    @model_validator(mode="after")
    def _has_its_graph(self) -> ComponentManifest:
        if self.kind not in self.graphs:
            raise ValueError(f"graphs: missing {self.kind}")
        if self.kind == "controlnet" and self.words_width is None:
            raise ValueError("words_width: missing")
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
