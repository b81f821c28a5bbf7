"""Masks made, grown, cut and combined. Source: ComfyUI's comfy_extras/nodes_mask.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...workflow.bounds import bound_problems
from ...workflow.declare import BOOLEAN, COMBO, FLOAT, INT, MASK, MAX_RESOLUTION, Input
from ..workbench import Workbench
from .base import Node, refuse

MASK_SIDE = Input(INT, 512, 1, MAX_RESOLUTION)
MASK_PLACE = Input(INT, 0, 0, MAX_RESOLUTION)


class SolidMask(Node):
    INPUTS = {"value": Input(FLOAT, 1.0, 0.0, 1.0), "width": MASK_SIDE, "height": MASK_SIDE}
    OUTPUTS = (MASK,)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from bound_problems(values, bench.limits)

    def run(self, bench: Workbench, value: float, width: int, height: int) -> tuple[Any, ...]:
        return (np.full((1, height, width), value, np.float32),)


class ThresholdMask(Node):
    """1 where a mask is above the value, else 0."""

    INPUTS = {"mask": Input(MASK), "value": Input(FLOAT, 0.5, 0.0, 1.0)}
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, mask: np.ndarray, value: float) -> tuple[Any, ...]:
        return ((mask > value).astype(np.float32),)


class GrowMask(Node):
    """Larger by pixels, or smaller where `expand` is negative; tapered: corners are cut."""

    INPUTS = {
        "mask": Input(MASK),
        "expand": Input(INT, 0, -MAX_RESOLUTION, MAX_RESOLUTION),
        "tapered_corners": Input(BOOLEAN, True),
    }
    OUTPUTS = (MASK,)

    def run(self, bench: Workbench, mask: np.ndarray, expand: int, tapered_corners: bool) -> tuple[Any, ...]:
        grown = mask if expand >= 0 else -mask
        for _ in range(abs(expand)):
            larger = spread_by_one(grown, tapered_corners)
            if np.array_equal(larger, grown):
                break
            grown = larger
        return (grown if expand >= 0 else -grown,)


def spread_by_one(mask: np.ndarray, tapered: bool) -> np.ndarray:
    """(b, h, w): at each pixel the most of itself and its neighbours, those at corners unless tapered."""

    def most(values: np.ndarray, axis: int) -> np.ndarray:
        widths = [(1, 1) if k == axis else (0, 0) for k in range(3)]
        padded = np.pad(values, widths, "edge")
        return np.lib.stride_tricks.sliding_window_view(padded, 3, axis).max(axis=-1)

    rows = most(mask, 1)
    return np.maximum(rows, most(mask, 2)) if tapered else most(rows, 2)


class FeatherMask(Node):
    """Fading at its edges; as there, right and bottom begin at the other side's first line."""

    INPUTS = {"mask": Input(MASK), **dict.fromkeys(("left", "top", "right", "bottom"), MASK_PLACE)}
    OUTPUTS = (MASK,)

    def run(
        self, bench: Workbench, mask: np.ndarray, left: int, top: int, right: int, bottom: int
    ) -> tuple[Any, ...]:
        height, width = mask.shape[1:]
        rows, columns = np.ones(height, np.float32), np.ones(width, np.float32)
        for line, ends in ((columns, (left, right)), (rows, (top, bottom))):
            first, last = (min(end, len(line)) for end in ends)
            line[np.arange(first)] *= np.arange(1, first + 1, dtype=np.float32) / max(first, 1)
            line[-np.arange(last)] *= np.arange(1, last + 1, dtype=np.float32) / max(last, 1)
        return (mask * rows[:, None] * columns,)


class CropMask(Node):
    INPUTS = {
        "mask": Input(MASK),
        "x": MASK_PLACE,
        "y": MASK_PLACE,
        "width": MASK_SIDE,
        "height": MASK_SIDE,
    }
    OUTPUTS = (MASK,)

    def run(
        self, bench: Workbench, mask: np.ndarray, x: int, y: int, width: int, height: int
    ) -> tuple[Any, ...]:
        part = mask[:, y : y + height, x : x + width]
        if part.size == 0:
            raise refuse("x", x, f"nothing of the mask of {mask.shape[2]}x{mask.shape[1]} lies there")
        return (part,)


OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "multiply": lambda one, two: one * two,
    "add": lambda one, two: one + two,
    "subtract": lambda one, two: one - two,
    "and": lambda one, two: (np.rint(one) != 0) & (np.rint(two) != 0),
    "or": lambda one, two: (np.rint(one) != 0) | (np.rint(two) != 0),
    "xor": lambda one, two: (np.rint(one) != 0) ^ (np.rint(two) != 0),
}


class MaskComposite(Node):
    """One on another at a place, combined."""

    INPUTS = {
        "destination": Input(MASK),
        "source": Input(MASK),
        "x": MASK_PLACE,
        "y": MASK_PLACE,
        "operation": Input(COMBO, choices=tuple(OPERATIONS)),
    }
    OUTPUTS = (MASK,)

    def run(
        self, bench: Workbench, destination: np.ndarray, source: np.ndarray, x: int, y: int, operation: str
    ) -> tuple[Any, ...]:
        if len(source) not in (1, len(destination)):
            raise refuse("source", len(source), f"{len(source)} masks do not fit {len(destination)}")
        height, width = destination.shape[1:]
        seen = source[:, : max(height - y, 0), : max(width - x, 0)]
        rows, columns = slice(y, y + seen.shape[1]), slice(x, x + seen.shape[2])
        result = destination.copy()
        result[:, rows, columns] = OPERATIONS[operation](destination[:, rows, columns], seen)
        return (np.clip(result, 0, 1),)
