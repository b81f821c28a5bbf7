"""Weights in prompts as AUTOMATIC1111's web UI reads them: every bracket multiplies.

`(word)` counts 1.1 times as much, `[word]` 1.1 times less, `(word:1.3)` 1.3 times as much; they multiply
where they nest; a bracket that is never closed holds to the end; a backslash makes one plain. BREAK begins a
new chunk. Its rule for the encodings: multiply, then keep the mean of all numbers as it was.
"""

from __future__ import annotations

import re

import numpy as np

STEP = 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|[\\:]")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")

_EDITING = re.compile(r"(?<!\\)\[[^\[\]]*(?::\s*[\d.]+\s*|\|[^\[\]]*)\]")

Parts = list[tuple[str, float]]


def webui_sections(text: str) -> list[Parts]:
    """The text between its BREAKs, each cut where the weight changes: [(part, weight), ...].

    Args:
        text: as `clean_prompt` leaves it.
    """
    sections: list[Parts] = [[]]
    for part, weight in _weighted(text):
        first, *more = _BREAK.split(part)
        _add(sections[-1], first, weight)
        for piece in more:
            sections.append([])
            _add(sections[-1], piece, weight)
    return sections[:-1] if len(sections) > 1 and not sections[-1] else sections


def editing_problem(text: str) -> str | None:
    """Why a text cannot be read as the web UI would: words that change between steps; None if it can."""
    if (found := _EDITING.search(text)) is None:
        return None
    return f"holds {found[0][:60]!r}: words that change between steps are not supported; take plain ones"


def keep_mean(encoding: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(1, tokens, width) float32 times (1, tokens) weights, scaled so that the mean stays what it was."""
    weighted = encoding * weights[..., None]
    mean = weighted.mean()
    return np.asarray(weighted * (encoding.mean() / mean if mean else 1.0), np.float32)


def _weighted(text: str) -> Parts:
    """Parts in order. What a bracket holds is weighted when it closes, or at the end."""
    found: list[list[object]] = []
    round_ones: list[int] = []
    square_ones: list[int] = []
    factors: list[tuple[int, int, float]] = []  # from, to, factor
    for piece in _PIECE.findall(text):
        if piece == "(":
            round_ones.append(len(found))
        elif piece == "[":
            square_ones.append(len(found))
        elif piece.endswith(")") and piece[0] in ":)" and round_ones:
            factor = STEP if piece == ")" else float(piece[1:-1])
            factors.append((round_ones.pop(), len(found), factor))
        elif piece == "]" and square_ones:
            factors.append((square_ones.pop(), len(found), 1 / STEP))
        else:
            found.append([piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece])
    factors += [(start, len(found), STEP) for start in round_ones]
    factors += [(start, len(found), 1 / STEP) for start in square_ones]
    weights = np.ones(len(found))
    for start, end, factor in factors:
        weights[start:end] *= factor
    return [(str(piece[0]), float(weight)) for piece, weight in zip(found, weights, strict=True)]


def _add(parts: Parts, text: str, weight: float) -> None:
    """Pieces of the same weight are one part, as they are one text to the tokenizer."""
    if not text:
        return
    if parts and parts[-1][1] == weight:
        parts[-1] = (parts[-1][0] + text, weight)
    else:
        parts.append((text, weight))
