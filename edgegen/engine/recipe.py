"""From a picture back to the request that made it: ours, or one that A1111's web UI described.

A recipe is what `jobs.job.parse_request` takes. It comes from a file and is checked there like anything else
from outside; here only its shape is read.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import BadRequest, Problem
from .metadata import (
    EXIF_IFD,
    FORMATS,
    MAX_PIXELS,
    SAMPLER_NAMES,
    SCHEDULE_NAMES,
    USER_COMMENT,
    read_metadata,
)
from .request import GenerationSettings

FIELDS = (*(field.name for field in fields(GenerationSettings)), "pack")
_SETTINGS_LINE = re.compile(r"(?:^|\n)(Steps: \d+, .*)\s*\Z", re.DOTALL)
_SETTING = re.compile(r'\s*([\w /+-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|\Z)')
_NEGATIVE = "\nNegative prompt:"
_SAMPLERS = {shown.lower(): name for name, shown in SAMPLER_NAMES.items()}
_SCHEDULES = {shown.lower(): name for name, shown in SCHEDULE_NAMES.items()}
_APPENDED = ("karras", "exponential", "sgm uniform")  # schedules that older texts append to the sampler
TEXT_MAX_CHARS = 100_000


def read_recipe(path: Path) -> dict[str, Any]:
    """The request in a picture's metadata: our own, else the `parameters` text of AUTOMATIC1111's web UI.

    Returns:
        Those of `FIELDS` that the picture names. A foreign picture never names a pack: its checkpoint is not
        known here.
    Raises:
        BadRequest: the file holds neither, or is no PNG, WebP or JPEG.
    """
    found = read_metadata(path)
    if found and found.get("prompt"):
        return {field: found[field] for field in FIELDS if found.get(field) not in (None, "")}
    text = _parameters_of(path)
    if recipe := parse_parameters(text) if text else {}:
        return recipe
    message = f"{path} tells no prompt: no picture, no metadata, or a workflow's"
    raise BadRequest([Problem("from", str(path), message)])


def parse_parameters(text: str) -> dict[str, Any]:
    """Read the web UI's text: prompt, `Negative prompt:` and a last line of `Name: value` pairs.

    Returns:
        The fields it names, numbers as numbers; empty when it has no line of settings. What cannot be
        carried over (extensions, hires passes, other samplers) is left out.
    """
    if len(text) > TEXT_MAX_CHARS or not (line := _SETTINGS_LINE.search(text)):
        return {}
    prompt, _, negative = ("\n" + text[: line.start()]).partition(_NEGATIVE)
    said = {name.strip().lower(): value.strip() for name, value in _SETTING.findall(line[1])}
    sampler, schedule = _sampler_and_schedule(said.get("sampler", ""), said.get("schedule type", ""))
    width, _, height = said.get("size", "").partition("x")
    recipe = {
        "prompt_syntax": None if said.get("version", "").startswith("edgegen") else "a1111",
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "seed": _whole(said.get("seed")),
        "steps": _whole(said.get("steps")),
        "guidance": _number(said.get("cfg scale")),
        "width": _whole(width),
        "height": _whole(height),
        "sampler": sampler,
        "schedule": schedule,
    }
    return {field: value for field, value in recipe.items() if value not in (None, "")}


def _parameters_of(path: Path) -> str | None:
    """The `parameters` chunk of a PNG, or EXIF's UserComment; no pixel is decoded."""
    try:
        with Image.open(path, formats=list(FORMATS.values())) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            if image.format == "PNG":
                text = image.info.get("parameters")
                return text if isinstance(text, str) else None
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return _user_comment(comment) if isinstance(comment, bytes) else None


def _user_comment(comment: bytes) -> str | None:
    """EXIF 2.32, 4.6.5: eight bytes name the character code; the web UI writes UTF-16, big-endian."""
    code, body = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        return body.decode("utf-16-be", "replace")
    return body.decode("ascii", "replace") if code == b"ASCII\0\0\0" else None


def _sampler_and_schedule(sampler: str, schedule: str) -> tuple[str | None, str | None]:
    """Our names for `DPM++ 2M` and `Karras`, or for both in one, as older texts have them."""
    sampler, schedule = sampler.lower(), schedule.lower()
    if appended := next((name for name in _APPENDED if sampler.endswith(f" {name}")), None):
        sampler, schedule = sampler.removesuffix(f" {appended}"), schedule or appended
    return _SAMPLERS.get(sampler), _SCHEDULES.get(schedule)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) else None
