"""What the denoiser is told of a picture: encoded words, and for some families their summary and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """One text as the denoiser reads it.

    Attributes:
        hidden: (1, tokens, width) float32, a row for each token.
        pooled: (1, width) float32, the whole text in one row; None for families that do without.
    """

    hidden: np.ndarray
    pooled: np.ndarray | None = None

    def zeroed(self) -> Encoding:
        """The same with nothing said at all: zeros."""
        pooled = None if self.pooled is None else np.zeros_like(self.pooled)
        return replace(self, hidden=np.zeros_like(self.hidden), pooled=pooled)


Conditioning = Sequence[Encoding]
"""The denoiser's answers to several encodings are averaged."""
