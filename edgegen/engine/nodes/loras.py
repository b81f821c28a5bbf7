"""LoRA nodes: a pack with a file's changes merged into its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import BadRequest, LoraError
from ...workflow.declare import CLIP, COMBO, FLOAT, MODEL, Input
from ..lora.adapter import Adapter
from ..lora.merge import LoraUse
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, refuse

STRENGTH = Input(FLOAT, 1.0, -100.0, 100.0)


class _Loras(Node):
    """What both LoRA nodes share; the file's changes come on top of those that are there already."""

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            if "lora_name" in values:
                Adapter(bench.lora_file(values["lora_name"]))
        except (BadRequest, LoraError) as err:
            yield "lora_name", str(err)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return repr(Adapter(bench.lora_file(values["lora_name"])).file.state)

    def adapted(self, bench: Workbench, stages: Stages, name: str, model: float, clip: float) -> Stages:
        if not (model or clip):
            return stages
        try:
            return stages.with_loras(LoraUse(bench.lora_file(name), model, clip))
        except LoraError as err:
            raise refuse("lora_name", name, str(err)) from err


class LoraLoader(_Loras):
    """Changes to the denoiser and to the text encoders, each at its strength."""

    INPUTS = {
        "model": Input(MODEL),
        "clip": Input(CLIP),
        "lora_name": Input(COMBO),
        "strength_model": STRENGTH,
        "strength_clip": STRENGTH,
    }
    OUTPUTS = (MODEL, CLIP)

    def run(
        self,
        bench: Workbench,
        model: Stages,
        clip: Stages,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
    ) -> tuple[Any, ...]:
        return (
            self.adapted(bench, model, lora_name, strength_model, 0),
            self.adapted(bench, clip, lora_name, 0, strength_clip),
        )


class LoraLoaderModelOnly(_Loras):
    """Changes to the denoiser alone."""

    INPUTS = {"model": Input(MODEL), "lora_name": Input(COMBO), "strength_model": STRENGTH}
    OUTPUTS = (MODEL,)

    def run(self, bench: Workbench, model: Stages, lora_name: str, strength_model: float) -> tuple[Any, ...]:
        return (self.adapted(bench, model, lora_name, strength_model, 0),)
