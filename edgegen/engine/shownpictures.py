"""Pictures on their way to an IP-Adapter: seen by an image encoder, several made into one.

What stands for no picture, and how several are combined: as the extension ComfyUI_IPAdapter_plus does it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .clipvision import ClipVision

_COMBINE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "add": lambda rows: rows.sum(axis=0, keepdims=True),
    "subtract": lambda rows: rows[:1] - rows[1:].mean(axis=0, keepdims=True),
    "average": lambda rows: rows.mean(axis=0, keepdims=True),
    "norm average": lambda rows: (rows / np.linalg.norm(rows, axis=0, keepdims=True)).mean(0, keepdims=True),
}
COMBINATIONS = ("concat", *_COMBINE)


def seen_pictures(
    vision: ClipVision, reads: str, image: np.ndarray, negative: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What an image encoder makes of the pictures that are wanted, and of those that are not: (b, ...) each.

    Args:
        reads: which of its outputs.
        image, negative: (b, 3, h, w) float32, -1 to 1; negative None: zeros for `image_embeds`, which are of
            no picture, and a black one's `hidden_states`.
    Raises:
        EngineError, OutOfMemory, PackError: the graph does not run.
    """
    wanted = getattr(vision.see(image), reads)
    if negative is None and reads == "image_embeds":
        return wanted, np.zeros_like(wanted)
    if negative is None:
        side = vision.component.manifest.image_size or 1
        negative = np.full((1, 3, side, side), -1, np.float32)
    unwanted = getattr(vision.see(negative[: len(image)]), reads)
    missing = len(wanted) - len(unwanted)
    return wanted, np.concatenate([unwanted, np.repeat(unwanted[-1:], missing, axis=0)])


def combined(wanted: np.ndarray, unwanted: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Several pictures' rows as one's; `concat` keeps them, for their tokens go side by side."""
    if how == "concat" or len(wanted) == 1:
        return wanted, unwanted
    return _COMBINE[how](wanted).astype(np.float32), unwanted[:1]
