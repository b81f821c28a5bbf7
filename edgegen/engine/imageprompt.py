"""A picture as part of the prompt: what the denoiser's cross attentions are told of it (IP-Adapter).

Source: Ye et al. 2023, arXiv:2308.06721. How much a picture counts is multiplied into the values, layer by
layer, when a job begins: the graph needs no more inputs for it. Weight types and scalings: as the extension
ComfyUI_IPAdapter_plus has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..component import Component
from ..pack import IpLayer
from .control import speaks_in
from .graphtimes import Pace
from .memory import MemoryMode
from .providers import ProviderChoice
from .session import output_of
from .sessioncache import SessionCache

LOOKING = "_ip"
"""What a denoiser's role ends in where it looks at pictures."""
ROLE, KEYS, VALUES = "ip_adapter", "ip_keys", "ip_values"
V_ONLY, K_AND_V = "V only", "K+V"
K_AND_V_PENALIZED, K_AND_MEAN_V_PENALIZED = "K+V w/ C penalty", "K+mean(V) w/ C penalty"
SCALINGS = (V_ONLY, K_AND_V, K_AND_V_PENALIZED, K_AND_MEAN_V_PENALIZED)
PENALTY_CHANNELS = 1280.0  # layers as wide as this are not penalized


@dataclass(frozen=True)
class ImageTokens:
    """Keys and values for all layers of a denoiser, side by side.

    Attributes:
        keys, values: (1, tokens, channels) float32, in the order of the manifest's `ip_layers`.
        start, end: parts of the noise schedule, 0 (all noise) to 1 (none), that they count in.
    """

    keys: np.ndarray
    values: np.ndarray
    start: float = 0.0
    end: float = 1.0

    def feeds(self, timestep: float, train_timesteps: int) -> dict[str, np.ndarray]:
        """For the denoiser's graph; values of zero say nothing."""
        speaks = speaks_in(self.start, self.end, timestep, train_timesteps)
        return {KEYS: self.keys, VALUES: self.values if speaks else np.zeros_like(self.values)}

    def scaled(self, layers: Sequence[IpLayer], weights: Sequence[float], scaling: str) -> ImageTokens:
        """As much of it as each layer's weight says.

        Args:
            weights: one a layer; 0: nothing.
            scaling: one of `SCALINGS`: what is multiplied.
        """
        channels = np.array([layer.channels for layer in layers])
        weight = np.array(weights, np.float32)
        if "penalty" in scaling:
            weight = weight * (channels / np.float32(PENALTY_CHANNELS)).astype(np.float32)
        spread = np.repeat(weight, channels)
        keys = self.keys if scaling == V_ONLY else self.keys * spread
        if scaling != K_AND_MEAN_V_PENALIZED:
            return replace(self, keys=keys, values=self.values * spread)
        mean = self.values.mean(axis=1, keepdims=True)
        heard = np.repeat(weight != 0, channels)
        return replace(self, keys=keys, values=(self.values - mean + mean * spread) * heard)

    def joined(self) -> ImageTokens:
        """The tokens of several pictures as if they were one's."""
        return replace(self, keys=_in_one(self.keys), values=_in_one(self.values))

    def between(self, start: float, end: float) -> ImageTokens:
        """The same, heard in that part of the noise schedule."""
        return replace(self, start=start, end=end)


def silent_tokens(layers: Sequence[IpLayer], tokens: int = 4) -> ImageTokens:
    """So many that say nothing."""
    nothing = np.zeros((1, tokens, sum(layer.channels for layer in layers)), np.float32)
    return ImageTokens(nothing, nothing)


def _in_one(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(1, -1, rows.shape[2])


@dataclass(frozen=True)
class ImagePrompt:
    """What both sides of guidance are told."""

    wanted: ImageTokens
    unwanted: ImageTokens


class IpAdapter:
    """An adapter's graph on a provider; it loads when first needed. Not thread-safe."""

    def __init__(self, component: Component, provider: ProviderChoice, threads: int = 0):
        self.component = component
        self._memory: MemoryMode | None = None
        self._provider_name = provider.name
        self._sessions = SessionCache(component, provider, threads)

    def use(self, memory: MemoryMode) -> None:
        """Run in that memory mode from now on."""
        self._memory = memory
        self._sessions.use(memory)

    def tokens(self, seen: np.ndarray) -> ImageTokens:
        """Keys and values of (b, ..., reads_width) float32 that an image encoder gave: (b, tokens, channels).

        Raises:
            EngineError, OutOfMemory, PackError: the graph does not run.
        """
        m = self.component.manifest
        shape = (len(seen), m.tokens or 0, sum(m.ip_channels or ()))
        out = self._sessions.get(ROLE).run({m.reads or "": seen})
        if self._memory and not self._memory.keeps_graphs:
            self.close()
        return ImageTokens(output_of(out, KEYS, ROLE, shape), output_of(out, VALUES, ROLE, shape))

    def pace(self) -> Pace:
        """How long the graph took so far."""
        return self._sessions.times.pace(self.component.name, self._provider_name)

    def close(self) -> None:
        """Free the graph; safe to call twice."""
        self._sessions.close()


def misfit(adapter: Component, pack: str, layers: Sequence[IpLayer] | None) -> str | None:
    """Why a pack's denoiser cannot listen to an adapter, or None."""
    has, wants = [layer.channels for layer in layers or ()], adapter.manifest.ip_channels
    if has == wants:
        return None
    return (
        f"{adapter.name} is of another family: it speaks to {len(wants or ())} layers of "
        f"{sum(wants or ())} channels, pack {pack} has {len(has)} of {sum(has)}"
    )
