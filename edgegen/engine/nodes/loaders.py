"""Where a workflow's models come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import EngineError, PackError
from ...workflow.declare import CLIP, COMBO, INT, MODEL, VAE, Input
from ..stages import Stages
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
    """Text encoders that end at an earlier layer."""

    INPUTS = {"clip": Input(CLIP), "stop_at_clip_layer": Input(INT, -1, -24, -1)}
    OUTPUTS = (CLIP,)

    def run(self, bench: Workbench, clip: Stages, stop_at_clip_layer: int) -> tuple[Any, ...]:
        try:
            return (clip.with_last_layer(stop_at_clip_layer),)
        except EngineError as err:
            raise refuse("stop_at_clip_layer", stop_at_clip_layer, str(err)) from err
