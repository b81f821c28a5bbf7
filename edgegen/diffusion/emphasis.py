"""Weights in prompts, as ComfyUI reads them: `(word)` counts for more, `(word:1.3)` for exactly so much.

Parentheses multiply by 1.1 and may nest; a number after the last colon inside replaces whatever weight held
outside; `\\(` and `\\)` are plain parentheses. What does not pair up is plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

NESTING_FACTOR = 1.1
MAX_WEIGHT = 10.0
# Stand-ins for escaped parentheses while pairs are sought; cleaned prompts hold no control characters.
_OPEN, _CLOSE = "\x01", "\x02"


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """The text in order, cut where the weight changes: [(part, weight), ...] without empty parts.

    Args:
        text: as `clean_prompt` leaves it.
    """
    found: list[tuple[str, float]] = []
    waiting = [(text.replace(r"\(", _OPEN).replace(r"\)", _CLOSE), 1.0)]
    while waiting:  # not recursive: a hostile prompt may nest as deep as it is long
        piece, weight = waiting.pop()
        items = list(_top_level(piece))
        if len(items) == 1 and not _is_group(items[0]):
            found.append((piece.replace(_OPEN, "(").replace(_CLOSE, ")"), weight))
            continue
        inner = [_open_group(item, weight) if _is_group(item) else (item, weight) for item in items]
        waiting += reversed(inner)
    return found


def weight_problem(parts: Iterable[tuple[str, float]]) -> str | None:
    """Why parts' weights are not allowed, naming the first; None when they are."""
    for part, weight in parts:
        if abs(weight) > MAX_WEIGHT:
            return f"gives {part[:40]!r} the weight {weight:g}; allowed are {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
    return None


def emphasize(encoding: np.ndarray, empty: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Move each token's encoding away from, or toward, what the empty prompt has in its place.

    Args:
        encoding, empty: (1, tokens, width) float32.
        weights: (1, tokens) float32; 1 leaves a token as it is.
    Returns:
        (1, tokens, width) float32.
    Source: ComfyUI's rule for prompt weights.
    """
    return empty + (encoding - empty) * weights[..., None]


def _top_level(text: str) -> Iterator[str]:
    """Groups with their parentheses, and what lies between them; unpaired ends stay with their text."""
    start, depth = 0, 0
    for at, character in enumerate(text):
        if character == "(":
            if depth == 0 and at > start:
                yield text[start:at]
                start = at
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[start : at + 1]
                start = at + 1
    if start < len(text):
        yield text[start:]


def _is_group(item: str) -> bool:
    return len(item) >= 2 and item[0] == "(" and item[-1] == ")"


def _open_group(item: str, weight: float) -> tuple[str, float]:
    """A group's inside and its weight."""
    inside = item[1:-1]
    words, colon, number = inside.rpartition(":")
    if colon and words:
        try:
            return words, _finite(number)
        except ValueError:
            pass  # the colon is one of the text's own
    return inside, weight * NESTING_FACTOR


def _finite(number: str) -> float:
    value = float(number)
    if not np.isfinite(value):
        raise ValueError(number)
    return value
