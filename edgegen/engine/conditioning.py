"""What the denoiser is told of a picture: encoded words, and for some families their summary and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from ..diffusion.conditions import size_ids
from .control import Control, speaks_in
from .imageprompt import ImageTokens


@dataclass(frozen=True)
class Area:
    """A rectangle of the picture, in pixels."""

    width: int
    height: int
    x: int
    y: int

    def covers(self, other: Area) -> bool:
        """Whether the other lies inside."""
        right, bottom = self.x + self.width, self.y + self.height
        starts_before = self.x <= other.x and self.y <= other.y
        return starts_before and right >= other.x + other.width and bottom >= other.y + other.height


@dataclass(frozen=True)
class AreaShare:
    """The same in shares of the picture, 0 to 1."""

    width: float
    height: float
    x: float
    y: float

    def of(self, width: int, height: int, downscale: int) -> Area:
        """The rectangle in a picture of so many latents, at whole latents."""
        sides = max(1, round(self.width * width)), max(1, round(self.height * height))
        corner = round(self.x * width), round(self.y * height)
        return Area(*(value * downscale for value in (*sides, *corner)))


@dataclass(frozen=True)
class Encoding:
    """One text as the denoiser reads it.

    Attributes:
        hidden: (1, tokens, width) float32, a row for each token.
        pooled: (1, width) float32, the whole text in one row; None for families that do without.
        time_ids: (1, 6) float32, sizes as `diffusion.conditions.size_ids` has them; None: the picture's own.
        guidance: (1, dim) float32, the embedded guidance of a distilled model; None for all others.
        area: what it speaks of; None: the whole picture. share: the same, before the picture's size is known.
        strength: how much it counts among others.
        mask: (1, h, w) float32 of any size, what the strength is multiplied with at each place; None: 1.
        controls: ControlNets that lead it; controls_both: and the other side of guidance, if that has none.
        images: pictures told with it, each by an adapter.
        start, end: parts of the noise schedule, 0 (all noise) to 1 (none), that it speaks in.
    """

    hidden: np.ndarray
    pooled: np.ndarray | None = None
    time_ids: np.ndarray | None = None
    guidance: np.ndarray | None = None
    area: Area | None = None
    share: AreaShare | None = None
    strength: float = 1.0
    mask: np.ndarray | None = None
    controls: tuple[Control, ...] = ()
    controls_both: bool = False
    images: tuple[ImageTokens, ...] = ()
    start: float = 0.0
    end: float = 1.0

    def zeroed(self) -> Encoding:
        """The same with nothing said at all: zeros."""
        pooled = None if self.pooled is None else np.zeros_like(self.pooled)
        return replace(self, hidden=np.zeros_like(self.hidden), pooled=pooled)

    def feeds(self, width: int, height: int) -> dict[str, np.ndarray]:
        """What the denoiser's graph takes beside latents and timestep, for a picture of that many pixels."""
        found = {"encoder_hidden_states": self.hidden}
        if self.pooled is not None:
            sizes = size_ids(width, height) if self.time_ids is None else self.time_ids
            found |= {"text_embeds": self.pooled, "time_ids": sizes}
        if self.guidance is not None:
            found["timestep_cond"] = self.guidance
        return found


Conditioning = Sequence[Encoding]
"""The denoiser's answers to several encodings are averaged."""


def speaking(conditioning: Conditioning, timestep: float, train_timesteps: int) -> Conditioning:
    """Those that are to be heard at a timestep."""
    return [one for one in conditioning if speaks_in(one.start, one.end, timestep, train_timesteps)]


def placed(conditioning: Conditioning, width: int, height: int, downscale: int) -> Conditioning:
    """Shares of the picture as rectangles of one of so many latents."""
    return [
        replace(one, area=one.share.of(width, height, downscale), share=None) if one.share else one
        for one in conditioning
    ]


def controlled_like(conditioning: Conditioning, other: Conditioning) -> Conditioning:
    """`conditioning`, led by the ControlNets of `other` that are for both, where it has none of its own."""
    shared = next((one.controls for one in other if one.controls and one.controls_both), ())
    if not shared:
        return conditioning
    return [one if one.controls else replace(one, controls=shared) for one in conditioning]


def _of_one_length(encodings: Conditioning) -> Conditioning:
    """Rows repeated to a common number: attention over all rows twice is attention over them once."""
    lengths = [encoding.hidden.shape[1] for encoding in encodings]
    if len(set(lengths)) == 1:
        return encodings
    most = lcm(*lengths)
    return [
        replace(encoding, hidden=np.tile(encoding.hidden, (1, most // length, 1)))
        for encoding, length in zip(encodings, lengths, strict=True)
    ]


def feeds_of(encodings: Conditioning, width: int, height: int) -> dict[str, np.ndarray]:
    """`Encoding.feeds` of several, one row of a batch each."""
    if len(encodings) == 1:
        return encodings[0].feeds(width, height)
    rows = [encoding.feeds(width, height) for encoding in _of_one_length(encodings)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
