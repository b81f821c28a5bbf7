"""Counts of values seen over many runs, in memory that does not grow, and the ranges 8 bits should cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector

from .ranges import LEVELS, best_range

BINS = 4096
PERCENTILE = 99.999
ENTROPY_BINS, ENTROPY_LEVELS = 512, 128


@dataclass
class Histogram:
    """Counts over [-reach, reach] in equal bins; a value beyond doubles the reach and pairs the bins up.

    Attributes:
        counts: (BINS,) int64.
        low, high: smallest and largest value seen, exactly.
    """

    counts: np.ndarray
    reach: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def empty(cls) -> Histogram:
        return cls(np.zeros(BINS, np.int64))

    @property
    def edges(self) -> np.ndarray:
        """(BINS + 1,) float32, ascending."""
        return np.linspace(-self.reach, self.reach, BINS + 1, dtype=np.float32)

    @property
    def centres(self) -> np.ndarray:
        """(BINS,) float64."""
        return (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count a sample of a tensor whose smallest and largest value are `low` and `high`."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-self.low, self.high)
        if largest <= 0:
            return
        if self.reach <= 0:
            self.reach = largest
        while self.reach < largest:
            self._double()
        self.counts += np.histogram(values, BINS, range=(-self.reach, self.reach))[0]

    def _double(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : 3 * BINS // 4] = pairs
        self.reach *= 2

    def mean_square(self) -> float:
        """Energy of one value."""
        total = self.counts.sum()
        return float((self.counts * np.square(self.centres)).sum() / total) if total else 0.0

    def rounding_error(self, low: float, high: float) -> float:
        """Mean squared error of 8 bits over [low, high]: what is clipped, and the step."""
        total = self.counts.sum()
        if not total or high <= low:
            return 0.0
        clipped = self.centres - np.clip(self.centres, low, high)
        inside = float(self.counts[clipped == 0].sum() / total)
        lost = float((self.counts * np.square(clipped)).sum() / total)
        return lost + inside * ((high - low) / LEVELS) ** 2 / 12


def minmax(h: Histogram) -> tuple[float, float]:
    """All that was seen."""
    return h.low, h.high


def percentile(h: Histogram) -> tuple[float, float]:
    """All but the farthest 0.001 %, half of it at either end."""
    if not h.counts.sum():
        return h.low, h.high
    shares = np.cumsum(h.counts) / h.counts.sum()
    tail = (100 - PERCENTILE) / 200
    low, high = (float(h.edges[np.searchsorted(shares, share)]) for share in (tail, 1 - tail))
    return max(low, h.low), min(high, h.high)


def entropy(h: Histogram) -> tuple[float, float]:
    """Keeps the most information (Migacz 2017, "8-bit inference with TensorRT"); ONNX Runtime's search."""
    if not h.counts.sum():
        return h.low, h.high
    coarse = h.counts.reshape(ENTROPY_BINS, -1).sum(axis=1)
    edges = h.edges[:: BINS // ENTROPY_BINS]
    collector = HistogramCollector("entropy", False, ENTROPY_BINS, ENTROPY_LEVELS, PERCENTILE, "same")
    seen = (coarse, edges, np.float32(h.low), np.float32(h.high), np.float32(h.reach))
    low, high = collector.get_entropy_threshold(seen, ENTROPY_LEVELS)[:2]
    return max(float(low), h.low), min(float(high), h.high)


def mse(h: Histogram) -> tuple[float, float]:
    """The smallest mean squared error of 8 bits."""
    return best_range(h.counts, h.edges, h.low, h.high)


CHOOSERS = {"minmax": minmax, "percentile": percentile, "entropy": entropy, "mse": mse}
