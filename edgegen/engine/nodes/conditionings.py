"""What the denoiser is told: words encoded, mixed, and bound to a part of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...diffusion.embeddingnames import asked_embeddings
from ...diffusion.prompt import clean_prompt
from ...errors import BadRequest
from ...workflow.bounds import TEXTS, bound_problems
from ...workflow.declare import CLIP, COMBO, CONDITIONING, FLOAT, INT, MASK, MAX_RESOLUTION, STRING, Input
from ..conditioning import Area, AreaShare, Conditioning, Encoding
from ..stages import Stages
from ..workbench import Workbench
from .base import Node, refuse

SIDE = Input(INT, 1024, 0, MAX_RESOLUTION)
EDGE = Input(INT, 0, 0, MAX_RESOLUTION)
STRENGTH = Input(FLOAT, 1.0, 0.0, 10.0)
BOUNDS = "mask bounds"


class CLIPTextEncode(Node):
    """Words to an encoding, weights in parentheses applied."""

    INPUTS = {"text": Input(STRING, ""), "clip": Input(CLIP)}
    OUTPUTS = (CONDITIONING,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)
        yield from _embedding_problems(bench, values)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return _embedding_states(bench, values)

    def run(self, bench: Workbench, text: str, clip: Stages) -> tuple[Any, ...]:
        return ([clip.encode(_readable(clip, "text", text))],)


class CLIPTextEncodeSDXL(Node):
    """Words of its own for each of SDXL's two encoders, and the sizes that its denoiser is told."""

    INPUTS = {
        "clip": Input(CLIP),
        "width": SIDE,
        "height": SIDE,
        "crop_w": EDGE,
        "crop_h": EDGE,
        "target_width": SIDE,
        "target_height": SIDE,
        "text_g": Input(STRING, ""),
        "text_l": Input(STRING, ""),
    }
    OUTPUTS = (CONDITIONING,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits, type(self).__name__)
        yield from _embedding_problems(bench, values)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return _embedding_states(bench, values)

    def run(self, bench: Workbench, clip: Stages, text_g: str, text_l: str, **sizes: int) -> tuple[Any, ...]:
        if clip.words.encoders < 2:
            raise refuse("clip", clip.pack.name, one_encoder(clip.pack.name))
        texts = _readable(clip, "text_l", text_l), _readable(clip, "text_g", text_g)
        names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
        told = np.array([[sizes[name] for name in names]], np.float32)
        return ([replace(clip.words.encode_each([texts])[0], time_ids=told)],)


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


class ConditioningSetArea(Node):
    """Speaks of a rectangle of the picture only, in pixels."""

    INPUTS = {
        "conditioning": Input(CONDITIONING),
        "width": Input(INT, 64, 64, MAX_RESOLUTION),
        "height": Input(INT, 64, 64, MAX_RESOLUTION),
        "x": EDGE,
        "y": EDGE,
        "strength": STRENGTH,
    }
    OUTPUTS = (CONDITIONING,)

    def run(
        self, bench: Workbench, conditioning: Conditioning, strength: float, **place: int
    ) -> tuple[Any, ...]:
        area = Area(**place)
        return ([replace(encoding, area=area, strength=strength) for encoding in conditioning],)


class ConditioningSetAreaPercentage(Node):
    """The same in shares of the picture; at whole latents of it."""

    INPUTS = {
        "conditioning": Input(CONDITIONING),
        "width": Input(FLOAT, 1.0, 0.0, 1.0),
        "height": Input(FLOAT, 1.0, 0.0, 1.0),
        "x": Input(FLOAT, 0.0, 0.0, 1.0),
        "y": Input(FLOAT, 0.0, 0.0, 1.0),
        "strength": STRENGTH,
    }
    OUTPUTS = (CONDITIONING,)

    def run(
        self, bench: Workbench, conditioning: Conditioning, strength: float, **place: float
    ) -> tuple[Any, ...]:
        share = AreaShare(**place)
        return ([replace(encoding, area=None, share=share, strength=strength) for encoding in conditioning],)


class ConditioningSetAreaStrength(Node):
    """How much it counts among others."""

    INPUTS = {"conditioning": Input(CONDITIONING), "strength": STRENGTH}
    OUTPUTS = (CONDITIONING,)

    def run(self, bench: Workbench, conditioning: Conditioning, strength: float) -> tuple[Any, ...]:
        return ([replace(encoding, strength=strength) for encoding in conditioning],)


class ConditioningSetMask(Node):
    """Counts as much at each place as a mask says; the denoiser looks at the whole picture."""

    INPUTS = {
        "conditioning": Input(CONDITIONING),
        "mask": Input(MASK),
        "strength": STRENGTH,
        "set_cond_area": Input(COMBO, choices=("default", BOUNDS)),
    }
    OUTPUTS = (CONDITIONING,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if values.get("set_cond_area") == BOUNDS:
            yield "set_cond_area", f"{BOUNDS} is not done here: the denoiser takes no part of any size"

    def run(
        self,
        bench: Workbench,
        conditioning: Conditioning,
        mask: np.ndarray,
        strength: float,
        set_cond_area: str,
    ) -> tuple[Any, ...]:
        if len(mask) != 1:
            raise refuse("mask", len(mask), "one mask says where the words count; there are more")
        weight = mask * np.float32(strength)
        return ([replace(encoding, mask=weight) for encoding in conditioning],)


class ConditioningSetTimestepRange(Node):
    """Counts in a part of the run only, as shares of the noise schedule; something has to at each step."""

    INPUTS = {
        "conditioning": Input(CONDITIONING),
        "start": Input(FLOAT, 0.0, 0.0, 1.0),
        "end": Input(FLOAT, 1.0, 0.0, 1.0),
    }
    OUTPUTS = (CONDITIONING,)

    def run(self, bench: Workbench, conditioning: Conditioning, start: float, end: float) -> tuple[Any, ...]:
        return ([replace(encoding, start=start, end=end) for encoding in conditioning],)


def one_encoder(pack: str) -> str:
    """Why SDXL's words cannot be told to a pack."""
    return f"pack {pack} has one text encoder only; this node is for Stable Diffusion XL"


def _embedding_problems(bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in TEXTS:
        for asked in asked_embeddings(str(values.get(name, ""))):
            try:
                bench.embeddings.get(asked)
            except BadRequest as err:
                yield name, str(err)


def _embedding_states(bench: Workbench, values: dict[str, Any]) -> str:
    """Changes when a file does that a text asks for."""
    texts = [str(values.get(name, "")) for name in TEXTS]
    return repr([bench.embeddings.get(asked).state for text in texts for asked in asked_embeddings(text)])


def _readable(clip: Stages, name: str, text: str) -> str:
    """The text cleaned. Raises BadRequest: the pack cannot read it."""
    text = clean_prompt(text)
    if problem := clip.words.problem(text):
        raise refuse(name, text, problem)
    return text


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
