"""Pictures enlarged by an upscaler's graph, in tiles that overlap.

Tiles are as large as ComfyUI's, and halved when one does not fit into memory, down to 128 pixels as there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator

import numpy as np

from ..component import Component
from ..errors import OutOfMemory
from .graphtimes import Pace
from .providers import ProviderChoice
from .sessioncache import SessionCache
from .tiles import blended_tiles, spans

TILE, SMALLEST_TILE, OVERLAP = 512, 128, 32  # pixels of the picture that is enlarged
ROLE = "upscaler"

log = logging.getLogger(__name__)


class Upscaler:
    """An upscaler's graph on a provider; it loads when first needed and stays until `close`. Not thread-safe.

    Attributes:
        tile: side in pixels of the tiles, as far as it is known to fit.
    """

    def __init__(self, component: Component, provider: ProviderChoice, threads: int = 0):
        self.component = component
        self.tile = TILE
        self._provider_name = provider.name
        self._sessions = SessionCache(component, provider, threads)

    @property
    def scale(self) -> int:
        return self.component.manifest.scale

    def enlarge(self, picture: np.ndarray) -> Generator[tuple[int, int], None, np.ndarray]:
        """Yields (tiles done, tiles in all) after each of several, for they may take minutes.

        Args:
            picture: (1, 3, h, w) float32, 0 black to 1 white.
        Returns:
            (1, 3, scale * h, scale * w) float32, the same range.
        Raises:
            OutOfMemory: not even the smallest tile fits. EngineError, PackError: the graph does not run.
        """
        while True:
            try:
                whole = yield from blended_tiles(self._run, picture, self.tile, OVERLAP, self.scale)
                return np.clip(whole, 0, 1)
            except (OutOfMemory, MemoryError) as err:
                if self.tile // 2 < SMALLEST_TILE:
                    raise OutOfMemory(
                        f"upscaler {self.component.name}: no tile of {self.tile} pixels fits into memory"
                    ) from err
                self.tile //= 2
                log.warning("memory is short: enlarging in tiles of %d pixels", self.tile)

    def _run(self, tile: np.ndarray) -> np.ndarray:
        """One run; sides that the graph does not take are padded with their last pixels meanwhile."""
        multiple = self.component.manifest.multiple
        height, width = tile.shape[2:]
        padding = [(0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)]
        fitted = np.pad(tile, padding, "edge")
        shape = (len(tile), 3, *(side * self.scale for side in fitted.shape[2:]))
        found = self._sessions.get(ROLE).output({"image": fitted}, "upscaled", shape)
        return found[:, :, : height * self.scale, : width * self.scale]

    def runs(self, width: int, height: int) -> Counter[str]:
        """How often the graph runs for a picture of so many pixels, by `HEIGHTxWIDTH` of what it is given."""
        step = self.component.manifest.multiple
        tiles = (spans(side, self.tile, OVERLAP) for side in (height, width))
        high, wide = ([stop - start + -(stop - start) % step for start, stop in axis] for axis in tiles)
        return Counter(f"{y}x{x}" for y in high for x in wide)

    def pace(self) -> Pace:
        """How long the graph took so far."""
        return self._sessions.times.pace(self.component.name, self._provider_name)

    def close(self) -> None:
        """Free the graph; safe to call twice."""
        self._sessions.close()
