"""Image encoders: a picture to numbers, as CLIP does. Source: Radford et al. 2021, arXiv:2103.00020."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..component import Component
from ..diffusion.clippicture import clip_pixels
from ..diffusion.pixels import to_uint8
from .graphtimes import Pace
from .memory import FULL, MemoryMode
from .providers import ProviderChoice
from .session import output_of
from .sessioncache import SessionCache

ROLE = "clip_vision"


@dataclass(frozen=True)
class SeenPictures:
    """What an image encoder makes of pictures.

    Attributes:
        image_embeds: (b, embeds_width) float32, each in one row.
        hidden_states: (b, rows, states_width) float32, of the last layer but one.
    """

    image_embeds: np.ndarray
    hidden_states: np.ndarray


class ClipVision:
    """An image encoder's graph on a provider; it loads when first needed and stays until `close`. Not
    thread-safe."""

    def __init__(self, component: Component, provider: ProviderChoice, threads: int = 0):
        self.component = component
        self._memory = FULL
        self._provider_name = provider.name
        self._sessions = SessionCache(component, provider, threads)

    def use(self, memory: MemoryMode) -> None:
        """Run in that memory mode from now on."""
        self._memory = memory
        self._sessions.use(memory)

    def see(self, image: np.ndarray, crop: str = "center") -> SeenPictures:
        """Look at pictures one after the other.

        Args:
            image: (b, 3, h, w) float32, -1 black to 1 white, of any size.
            crop: one of `clippicture.CROPS`.
        Raises:
            EngineError, OutOfMemory, PackError: the graph does not run.
        """
        m = self.component.manifest
        side = m.image_size or 224
        found = [self._look(clip_pixels(to_uint8(one), side, crop, _bicubic)) for one in image]
        if not self._memory.keeps_graphs:
            self.close()  # larger than most denoisers in 8 bits, and done with
        return SeenPictures(*(np.concatenate(rows) for rows in zip(*found, strict=True)))

    def _look(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = self.component.manifest
        out = self._sessions.get(ROLE).run({"pixel_values": pixels})
        embeds = output_of(out, "image_embeds", ROLE, (1, m.embeds_width or 0))
        return embeds, output_of(out, "hidden_states", ROLE)

    def pace(self) -> Pace:
        """How long the graph took so far."""
        return self._sessions.times.pace(self.component.name, self._provider_name)

    def close(self) -> None:
        """Free the graph; safe to call twice."""
        self._sessions.close()


def _bicubic(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)
