"""Where a workflow's models come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import PackError
from ...pack import Manifest
from ...workflow.declare import CLIP, COMBO, INT, MODEL, VAE, Input
from ..stages import Stages
from ..words import last_layer_read
from ..workbench import Workbench
from .base import Node, refuse


class _Loader(Node):
    """A file's name stands for a pack; nothing is loaded yet.

    Attributes:
        NAME: the input that holds it.
    """

    NAME = ""

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            if self.NAME in values:
                bench.pack_for(values[self.NAME])
        except PackError as err:
            yield self.NAME, str(err)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return bench.pack_for(values[self.NAME]).manifest.model_dump_json()


class CheckpointLoaderSimple(_Loader):
    """A whole pack."""

    NAME = "ckpt_name"
    INPUTS = {"ckpt_name": Input(COMBO)}
    OUTPUTS = (MODEL, CLIP, VAE)

    def run(self, bench: Workbench, ckpt_name: str) -> tuple[Any, ...]:
        stages = bench.stages(bench.pack_for(ckpt_name))
        return stages, stages, stages


class VAELoader(_Loader):
    """A pack's autoencoder; latents of another pack are rescaled to it."""

    NAME = "vae_name"
    INPUTS = {"vae_name": Input(COMBO)}
    OUTPUTS = (VAE,)

    def run(self, bench: Workbench, vae_name: str) -> tuple[Any, ...]:
        return (bench.stages(bench.pack_for(vae_name)),)


class CLIPSetLastLayer(Node):
    """Text encoders in packs end where the denoiser reads them: only that layer can be had."""

    INPUTS = {"clip": Input(CLIP), "stop_at_clip_layer": Input(INT, -1, -24, -1)}
    OUTPUTS = (CLIP,)

    def run(self, bench: Workbench, clip: Stages, stop_at_clip_layer: int) -> tuple[Any, ...]:
        if problem := layer_problem(clip.pack.manifest, stop_at_clip_layer):
            raise refuse("stop_at_clip_layer", stop_at_clip_layer, problem)
        return (clip,)


def layer_problem(manifest: Manifest, layer: int) -> str | None:
    """Why a pack's text encoders cannot stop at a layer, counted from the end; None if they do."""
    has = last_layer_read(manifest)
    if layer == has:
        return None
    return f"{layer} cannot be had: pack {manifest.name} holds the output of layer {has} only; take {has}"
