"""Where a workflow's models and words come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...diffusion.prompt import clean_prompt
from ...errors import PackError
from ...workflow.bounds import bound_problems
from ...workflow.declare import CLIP, COMBO, CONDITIONING, FLOAT, INT, MODEL, STRING, VAE, Input
from ..conditioning import Conditioning, Encoding
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, refuse


class CheckpointLoaderSimple(Node):
    """A checkpoint's name stands for a pack; nothing is loaded yet."""

    INPUTS = {"ckpt_name": Input(COMBO)}
    OUTPUTS = (MODEL, CLIP, VAE)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            if "ckpt_name" in values:
                bench.pack_for(values["ckpt_name"])
        except PackError as err:
            yield "ckpt_name", str(err)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return bench.pack_for(values["ckpt_name"]).manifest.model_dump_json()

    def run(self, bench: Workbench, ckpt_name: str) -> tuple[Any, ...]:
        stages = bench.stages(bench.pack_for(ckpt_name))
        return stages, stages, stages


class CLIPSetLastLayer(Node):
    """A pack's text encoder ends at its last layer: only -1 can be had."""

    INPUTS = {"clip": Input(CLIP), "stop_at_clip_layer": Input(INT, -1, -24, -1)}
    OUTPUTS = (CLIP,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        layer = values.get("stop_at_clip_layer", -1)
        if layer != -1:
            yield (
                "stop_at_clip_layer",
                f"{layer} cannot be had: packs hold the last layer's output only; take -1",
            )

    def run(self, bench: Workbench, clip: Stages, stop_at_clip_layer: int) -> tuple[Any, ...]:
        return (clip,)


class CLIPTextEncode(Node):
    """Words to an encoding, weights in parentheses applied."""

    INPUTS = {"text": Input(STRING, ""), "clip": Input(CLIP)}
    OUTPUTS = (CONDITIONING,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(self, bench: Workbench, text: str, clip: Stages) -> tuple[Any, ...]:
        text = clean_prompt(text)
        if problem := clip.words.problem(text):
            raise refuse("text", text, problem)
        return ([clip.encode(text)],)


class ConditioningCombine(Node):
    """Both: the denoiser's answers to each are averaged."""

    INPUTS = {"conditioning_1": Input(CONDITIONING), "conditioning_2": Input(CONDITIONING)}
    OUTPUTS = (CONDITIONING,)

    def run(
        self, bench: Workbench, conditioning_1: Conditioning, conditioning_2: Conditioning
    ) -> tuple[Any, ...]:
        return ([*conditioning_1, *conditioning_2],)


class ConditioningConcat(Node):
    """One after the other, in one look; a graph with a fixed number of tokens refuses that."""

    INPUTS = {"conditioning_to": Input(CONDITIONING), "conditioning_from": Input(CONDITIONING)}
    OUTPUTS = (CONDITIONING,)

    def run(
        self, bench: Workbench, conditioning_to: Conditioning, conditioning_from: Conditioning
    ) -> tuple[Any, ...]:
        after = conditioning_from[0].hidden
        return ([replace(to, hidden=np.concatenate([to.hidden, after], axis=1)) for to in conditioning_to],)


class ConditioningAverage(Node):
    """In between, token by token; a shorter one is filled up with zeros, a longer one cut."""

    INPUTS = {
        "conditioning_to": Input(CONDITIONING),
        "conditioning_from": Input(CONDITIONING),
        "conditioning_to_strength": Input(FLOAT, 1.0, 0.0, 1.0),
    }
    OUTPUTS = (CONDITIONING,)

    def run(
        self,
        bench: Workbench,
        conditioning_to: Conditioning,
        conditioning_from: Conditioning,
        conditioning_to_strength: float,
    ) -> tuple[Any, ...]:
        part = np.float32(conditioning_to_strength)
        return ([_between(to, conditioning_from[0], part) for to in conditioning_to],)


class ConditioningZeroOut(Node):
    """Nothing said at all: zeros."""

    INPUTS = {"conditioning": Input(CONDITIONING)}
    OUTPUTS = (CONDITIONING,)

    def run(self, bench: Workbench, conditioning: Conditioning) -> tuple[Any, ...]:
        return ([encoding.zeroed() for encoding in conditioning],)


def _between(to: Encoding, other: Encoding, part: np.float32) -> Encoding:
    hidden = to.hidden * part + _as_long(other.hidden, to.hidden) * (1 - part)
    pooled = other.pooled if to.pooled is None else to.pooled
    if to.pooled is not None and other.pooled is not None:
        pooled = to.pooled * part + other.pooled * (1 - part)
    return replace(to, hidden=hidden, pooled=pooled)


def _as_long(hidden: np.ndarray, other: np.ndarray) -> np.ndarray:
    tokens = other.shape[1]
    missing = max(tokens - hidden.shape[1], 0)
    return np.pad(hidden[:, :tokens], ((0, 0), (0, missing), (0, 0)))
