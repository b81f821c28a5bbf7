"""LoRA in a request: names and strengths. Pure; whether there are such files only the engine knows."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import shorten

MOST = 8
MAX_STRENGTH = 100
KEYS = ("name", "strength", "clip")
_STEP = r"[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,99}"  # no file that hides, none above
NAME = re.compile(f"{_STEP}(/{_STEP}){{0,3}}")


def check_loras(value: Any) -> str | None:
    """What is wrong with a request's `loras`: a list of {name, strength, clip}; None: nothing.

    `strength` is 1 where it is left out, `clip` (of the text encoders) is the strength.
    """
    if not isinstance(value, list) or len(value) > MOST:
        return f'must be a list of at most {MOST} objects with a name, as in [{{"name": "ink"}}]'
    return next((problem for wish in value if (problem := _problem_with(wish))), None)


def _problem_with(wish: Any) -> str | None:
    if not isinstance(wish, dict) or "name" not in wish:
        return f"{shorten(wish)} is no object with a name"
    if unknown := wish.keys() - set(KEYS):
        return f"{shorten(min(unknown, key=str))} is not known there; known are {', '.join(KEYS)}"
    if not isinstance(wish["name"], str) or not NAME.fullmatch(wish["name"]):
        return f"{shorten(wish['name'])} is no LoRA's name: a file below the device's LoRA folder"
    strengths = [wish[key] for key in KEYS[1:] if key in wish]
    wrong = next((strength for strength in strengths if not _is_strength(strength)), None)
    if wrong is not None or None in strengths:
        return f"strength {shorten(wrong)} is not allowed: {-MAX_STRENGTH} to {MAX_STRENGTH}"
    return None


def _is_strength(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (isinstance(value, int) or math.isfinite(value)) and -MAX_STRENGTH <= value <= MAX_STRENGTH
