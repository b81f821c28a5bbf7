"""How long a pack's graphs take, measured while they work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Pace = dict[str, float]
"""Seconds by `pack/provider/role/HEIGHTxWIDTH` of the graph's input; of words the last part is empty."""


@dataclass
class _Mean:
    runs: int = 0
    seconds: float = 0.0


class GraphTimes:
    """Means by role and size, of one picture of a batch. A graph's first run warms up: it counts only while
    it is the only one."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], _Mean] = {}

    def note(self, role: str, feeds: Mapping[str, np.ndarray], seconds: float) -> None:
        """One run of a graph."""
        batch, size = _size(feeds)
        mean = self._means.setdefault((role, size), _Mean())
        mean.runs += 1
        count = max(1, mean.runs - 1)
        mean.seconds += (seconds / batch - mean.seconds) / count

    def pace(self, pack: str, provider: str) -> Pace:
        """What is known now."""
        return {
            pace_key(pack, provider, role, size): mean.seconds for (role, size), mean in self._means.items()
        }


def pace_key(pack: str, provider: str, role: str, size: str) -> str:
    return f"{pack}/{provider}/{role}/{size}"


def _size(feeds: Mapping[str, np.ndarray]) -> tuple[int, str]:
    """Batch, and height and width of the first input that is a picture or latents."""
    for value in feeds.values():
        if value.ndim == 4:
            return max(1, len(value)), f"{value.shape[2]}x{value.shape[3]}"
    return 1, ""
