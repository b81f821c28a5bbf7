"""Prompts: made clean, and checked against what a pack can read."""

from __future__ import annotations

import unicodedata

from .chunks import COMFYUI, parts_of
from .tokenizer import ClipTokenizer


def clean_prompt(text: str) -> str:
    """One line of printable text: control characters and lone surrogates gone, white space collapsed, NFC."""
    kept = (
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs")
    )
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def token_problem(text: str, tokenizer: ClipTokenizer, syntax: str = COMFYUI) -> str | None:
    """Why a text does not fit into one chunk, naming the first words that would be lost; None if it fits.

    Weights and their parentheses do not count.
    """
    most = tokenizer.max_length - 2
    parts = parts_of(text, syntax)
    count = sum(tokenizer.count(part) for part, _ in parts)
    if count <= most:
        return None
    lost = _first_lost("".join(part for part, _ in parts), tokenizer)
    return f"has {count} tokens; at most {most} fit. Shorten it: from {lost!r} on it is lost"


def _first_lost(text: str, tokenizer: ClipTokenizer) -> str:
    words = text.split()
    low, high = 0, len(words) - 1  # the most words that fit lie in between; some are lost
    while low < high:
        middle = (low + high + 1) // 2
        fits = tokenizer.count(" ".join(words[:middle])) <= tokenizer.max_length - 2
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(words[low : low + 4])[:60]
