"""What a sampler that is taken apart gets from nodes of their own: noise, and a denoiser with its words.

Source: ComfyUI's comfy_extras/nodes_custom_sampler.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...workflow import CheckedNode, GraphNode, Link
from ...workflow.declare import CONDITIONING, MODEL, Input
from ...workflow.declare import GUIDER as GUIDER_TYPE
from ...workflow.declare import NOISE as NOISE_TYPE
from ..conditioning import Conditioning
from ..stages import Stages
from ..workbench import Workbench
from .base import Node
from .sampling import CFG, SEED


@dataclass(frozen=True)
class Noise:
    """A seed; `is_silent`: the run starts from the latents as they are."""

    seed: int
    is_silent: bool = False


@dataclass(frozen=True)
class Guider:
    """A denoiser and what it is told; without a negative side there is no guidance."""

    stages: Stages
    positive: Conditioning
    negative: Conditioning | None
    cfg: float


class RandomNoise(Node):
    """A seed's noise."""

    INPUTS = {"noise_seed": SEED}
    OUTPUTS = (NOISE_TYPE,)

    def run(self, bench: Workbench, noise_seed: int) -> tuple[Any, ...]:
        return (Noise(noise_seed),)


class DisableNoise(Node):
    """None at the start; what samplers add on the way is that of seed 0."""

    OUTPUTS = (NOISE_TYPE,)

    def run(self, bench: Workbench) -> tuple[Any, ...]:
        return (Noise(0, is_silent=True),)


class BasicGuider(Node):
    """What to draw, and nothing else: one pass."""

    INPUTS = {"model": Input(MODEL), "conditioning": Input(CONDITIONING)}
    OUTPUTS = (GUIDER_TYPE,)

    def run(self, bench: Workbench, model: Stages, conditioning: Conditioning) -> tuple[Any, ...]:
        return (Guider(model, conditioning, None, 1.0),)


class CFGGuider(Node):
    """What to draw and what not to."""

    INPUTS = {
        "model": Input(MODEL),
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "cfg": CFG,
    }
    OUTPUTS = (GUIDER_TYPE,)

    def run(
        self, bench: Workbench, model: Stages, positive: Conditioning, negative: Conditioning, cfg: float
    ) -> tuple[Any, ...]:
        return (Guider(model, positive, negative, cfg),)


def guided_inputs(
    nodes: Mapping[str, CheckedNode] | Mapping[str, GraphNode], node: CheckedNode | GraphNode
) -> dict[str, Any]:
    """A node's inputs, and of one with a guider what that asks with, by the names that KSampler has."""
    link = node.inputs.get("guider")
    guider = nodes.get(link.node) if isinstance(link, Link) else None
    if guider is None:
        return dict(node.inputs)
    told = dict(guider.inputs)
    if guider.class_type == BasicGuider.__name__:
        told |= {"positive": told.pop("conditioning", None), "cfg": 1.0}
    return told | node.inputs
