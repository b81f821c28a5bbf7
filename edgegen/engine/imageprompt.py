"""A picture as part of the prompt: what the denoiser's cross attentions are told of it (IP-Adapter).

Source: Ye et al. 2023, arXiv:2308.06721. How much a picture counts is multiplied into the values, layer by
layer, when a job begins: the graph needs no more inputs for it. Weight types and scalings: as the extension
ComfyUI_IPAdapter_plus has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from ..component import Component
from ..diffusion.resample import resample
from ..pack import IpLayer
from .control import speaks_in
from .graphtimes import Pace
from .memory import MemoryMode
from .providers import ProviderChoice
from .session import output_of
from .sessioncache import SessionCache

LOOKING = "_ip"
"""What a denoiser's role ends in where it looks at pictures."""
ROLE, KEYS, VALUES, MASK = "ip_adapter", "ip_keys", "ip_values", "ip_mask"
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
        mask: (1, h, w) float32 of any size, how much they count at each place; None: 1.
    """

    keys: np.ndarray
    values: np.ndarray
    start: float = 0.0
    end: float = 1.0
    mask: np.ndarray | None = None

    def said(self, timestep: float, train_timesteps: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values at a timestep, repeated to so many tokens: attention over all of them twice is
        attention over them once. Values of zero say nothing."""
        speaks = speaks_in(self.start, self.end, timestep, train_timesteps)
        values = self.values if speaks else np.zeros_like(self.values)
        times = (1, tokens // self.keys.shape[1], 1)
        return np.tile(self.keys, times), np.tile(values, times)

    def mask_at(self, level: int, height: int, width: int) -> np.ndarray:
        """(1, places, 1): where it counts in latents of that size, halved so often; (1, 1, 1): everywhere."""
        if self.mask is None:
            return np.ones((1, 1, 1), np.float32)
        across, down = (-(-side // 2**level) for side in (width, height))
        return resample(self.mask[None], across, down, "bicubic").reshape(1, -1, 1)

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

    def heard_in(self, start: float, end: float, mask: np.ndarray | None = None) -> ImageTokens:
        """The same, heard in that part of the noise schedule, and where the mask is."""
        return replace(self, start=start, end=end, mask=mask)


def silent_tokens(layers: Sequence[IpLayer], tokens: int = 4) -> ImageTokens:
    """So many that say nothing."""
    nothing = np.zeros((1, tokens, sum(layer.channels for layer in layers)), np.float32)
    return ImageTokens(nothing, nothing)


def takes_several(layers: Sequence[IpLayer] | None) -> bool:
    """Whether a denoiser's graph knows masks, and listens to several adapters."""
    return bool(layers) and all(layer.level is not None for layer in layers or ())


def told_of(
    sides: Sequence[Sequence[ImageTokens]],
    layers: Sequence[IpLayer],
    timestep: float,
    train_timesteps: int,
    size: tuple[int, int],
) -> dict[str, np.ndarray]:
    """What the denoiser's graph is fed; {}: nothing is shown.

    Args:
        sides: of each row of the batch, what every adapter tells it; as many for each.
        size: height and width of the latents.
    """
    rows = [tokens for adapter in zip(*sides, strict=True) for tokens in adapter]
    if not rows:
        return {}
    most = lcm(*(tokens.keys.shape[1] for tokens in rows))
    said = [tokens.said(timestep, train_timesteps, most) for tokens in rows]
    keys, values = (np.concatenate(parts) for parts in zip(*said, strict=True))
    feeds = {KEYS: keys, VALUES: values}
    if takes_several(layers):
        feeds |= {f"{MASK}_{level}": _masks(rows, level, size) for level in {x.level or 0 for x in layers}}
    return feeds


def _masks(rows: Sequence[ImageTokens], level: int, size: tuple[int, int]) -> np.ndarray:
    found = [tokens.mask_at(level, *size) for tokens in rows]
    places = max(mask.shape[1] for mask in found)
    return np.concatenate([np.broadcast_to(mask, (1, places, 1)) for mask in found])


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
