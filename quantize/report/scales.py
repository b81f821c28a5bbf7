"""From figures to places on a drawing, and the round numbers to write beside an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`low` goes to `start`, `high` to `end`; either pair may run downwards.

    Args:
        log: equal ratios are equally far apart; low and high must be above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._bend(self.low), self._bend(self.high)
        if low == high:
            return (self.start + self.end) / 2
        return self.start + (self._bend(value) - low) / (high - low) * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the scale, about `count` of them."""
        low, high = min(self.low, self.high), max(self.low, self.high)
        return _log_ticks(low, high, count) if self.log else _linear_ticks(low, high, count)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    if high <= low:
        return [low]
    step = _round_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1, 2, 5), (1, 3), (1,)):
        found = [k * 10.0**d for d in decades for k in leads if low <= k * 10.0**d <= high]
        if len(found) <= count + 2:
            break
    return found or [low]


def padded(values: Sequence[float], log: bool, share: float = 0.06) -> tuple[float, float]:
    """Lowest and highest of the values with room around them; never a point."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** share, 1.05)
        return low / room, high * room
    room = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - room, high + room


def short(value: float) -> str:
    """A figure with three digits at most that count: `1,234`, `16.8`, `0.031`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    words = f"{value:,.{digits}f}"
    return words.rstrip("0").rstrip(".") if "." in words else words
