"""ControlNets: a picture that the denoiser is led by, beside its words.

A ControlNet looks at the latents as the denoiser does, and at a hint; what it gives is added to the
denoiser's skip connections. Source: Zhang et al. 2023, arXiv:2302.05543.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..component import Component
from ..diffusion.resample import crop_to_shape, resample
from ..errors import EngineError
from .graphtimes import Pace
from .memory import MemoryMode
from .providers import ProviderChoice
from .sessioncache import SessionCache

CONTROLLED = "unet_control"
ROLE, HINT = "controlnet", "controlnet_cond"

Residuals = dict[str, np.ndarray]


class ControlNet:
    """Its graph on a provider; it loads when first needed and stays until `close`. Not thread-safe."""

    def __init__(self, component: Component, provider: ProviderChoice, threads: int = 0):
        self.component = component
        self._provider_name = provider.name
        self._sessions = SessionCache(component, provider, threads)

    def use(self, memory: MemoryMode) -> None:
        """Run in that memory mode from now on."""
        self._sessions.use(memory)

    def residuals(self, feeds: Mapping[str, np.ndarray], hint: np.ndarray) -> Residuals:
        """By the inputs of the denoiser's graph that they are for.

        Args:
            feeds: what the denoiser's graph is fed.
            hint: (1, 3, H, W) float32, 0 to 1, of any size; scaled to the latents', the middle where the
                proportions differ.
        Raises:
            EngineError, PackError: the graph does not run, or wants what this denoiser is not told.
        """
        session = self._sessions.get(ROLE)
        height, width = (side * self.component.manifest.hint_scale for side in feeds["sample"].shape[2:])
        fitted = resample(crop_to_shape(hint, width, height), width, height, "nearest-exact")
        known = {**feeds, HINT: np.repeat(fitted, len(feeds["sample"]), axis=0)}
        if missing := [name for name in session.inputs if name not in known]:
            wants = ", ".join(missing)
            raise EngineError(f"ControlNet {self.component.name} wants {wants}: it is of another family")
        found = session.run({name: known[name] for name in session.inputs})
        return {name: value.astype(np.float32, copy=False) for name, value in found.items()}

    def pace(self) -> Pace:
        """How long the graph took so far."""
        return self._sessions.times.pace(self.component.name, self._provider_name)

    def close(self) -> None:
        """Free the graph; safe to call twice."""
        self._sessions.close()


@dataclass(frozen=True)
class Control:
    """A ControlNet at work on one side of guidance.

    Attributes:
        hint: (1, 3, H, W) float32, 0 to 1.
        strength: what its residuals are multiplied with.
        start, end: parts of the noise schedule, 0 (all noise) to 1 (none), that it speaks in.
    """

    net: ControlNet
    hint: np.ndarray
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def speaks_at(self, timestep: float, train_timesteps: int) -> bool:
        """Whether it is to be heard at a timestep, 0 to train_timesteps - 1."""
        return speaks_in(self.start, self.end, timestep, train_timesteps)


def speaks_in(start: float, end: float, timestep: float, train_timesteps: int) -> bool:
    """Whether a timestep, 0 to train_timesteps - 1, lies between parts of the noise schedule, from 0 to 1."""
    if start >= 1 or end <= 0:
        return False  # no noise level is beyond these
    first, last = ((1 - part) * (train_timesteps - 1) for part in (start, end))
    return (start <= 0 or timestep <= first) and (end >= 1 or timestep >= last)


def residuals_of(
    controls: Iterable[Control], feeds: Mapping[str, np.ndarray], memory: MemoryMode
) -> Residuals:
    """The sum of what several add, each by its strength. Raises as `ControlNet.residuals`."""
    total: Residuals = {}
    for control in controls:
        control.net.use(memory)
        for name, value in control.net.residuals(feeds, control.hint).items():
            told = value * np.float32(control.strength)
            total[name] = total[name] + told if name in total else told
    return total
