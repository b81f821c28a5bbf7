"""Pictures that lead the denoiser: ControlNets on conditioning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...workflow.declare import COMBO, CONDITIONING, CONTROL_NET, FLOAT, IMAGE, VAE, Input
from ..conditioning import Conditioning
from ..control import Control, ControlNet
from ..workbench import Workbench
from .base import ComponentLoader, Node, refuse

STRENGTH = Input(FLOAT, 1.0, 0.0, 10.0)


class ControlNetLoader(ComponentLoader):
    """A file's name stands for a pack of kind `controlnet`; nothing is loaded yet."""

    KIND, NAME = "controlnet", "control_net_name"
    INPUTS = {"control_net_name": Input(COMBO)}
    OUTPUTS = (CONTROL_NET,)

    def run(self, bench: Workbench, control_net_name: str) -> tuple[Any, ...]:
        return (bench.controlnet(bench.component_for(self.KIND, control_net_name)),)


class ControlNetApply(Node):
    """Leads what is wanted, and so the other side of guidance as long as that has no ControlNet itself."""

    INPUTS = {
        "conditioning": Input(CONDITIONING),
        "control_net": Input(CONTROL_NET),
        "image": Input(IMAGE),
        "strength": STRENGTH,
    }
    OUTPUTS = (CONDITIONING,)

    def run(
        self,
        bench: Workbench,
        conditioning: Conditioning,
        control_net: ControlNet,
        image: np.ndarray,
        strength: float,
    ) -> tuple[Any, ...]:
        if strength == 0:
            return (conditioning,)
        return (_led(conditioning, Control(control_net, _hint(image), strength), both=True),)


class ControlNetApplyAdvanced(Node):
    """Leads both sides of guidance, in a part of the run, as shares of the noise schedule."""

    INPUTS = {
        "positive": Input(CONDITIONING),
        "negative": Input(CONDITIONING),
        "control_net": Input(CONTROL_NET),
        "image": Input(IMAGE),
        "strength": STRENGTH,
        "start_percent": Input(FLOAT, 0.0, 0.0, 1.0),
        "end_percent": Input(FLOAT, 1.0, 0.0, 1.0),
        "vae": Input(VAE, optional=True),
    }
    OUTPUTS = (CONDITIONING, CONDITIONING)

    def run(
        self,
        bench: Workbench,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlNet,
        image: np.ndarray,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: object = None,
    ) -> tuple[Any, ...]:
        if strength == 0:
            return positive, negative
        control = Control(control_net, _hint(image), strength, start_percent, end_percent)
        return _led(positive, control, both=False), _led(negative, control, both=False)


def _led(conditioning: Conditioning, control: Control, both: bool) -> Conditioning:
    """One more ControlNet beside those that lead it already."""
    return [replace(one, controls=(*one.controls, control), controls_both=both) for one in conditioning]


def _hint(image: np.ndarray) -> np.ndarray:
    """(1, 3, h, w) float32, 0 to 1. Raises BadRequest for more than one picture."""
    if len(image) != 1:
        raise refuse("image", len(image), "one picture leads; there are more")
    return image / 2 + np.float32(0.5)
