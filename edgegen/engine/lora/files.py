"""LoRA files by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import BadRequest, Problem
from .merge import LoraUse

SUFFIX = ".safetensors"


def file_within(folder: Path, name: str) -> Path | None:
    """The regular file of that name in a folder or below; None: not there, or a name that leads out."""
    try:
        path = (folder / name).resolve(strict=True)
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, RuntimeError, ValueError):  # not there, a loop of links, a NUL in the name
        return None
    return path if inside else None


def find_lora(folder: Path, name: str) -> Path:
    """The file of a LoRA's name, with or without its suffix. Raises BadRequest: none, or one outside."""
    plain = name.replace("\\", "/")
    path = file_within(folder, plain) or file_within(folder, f"{plain}{SUFFIX}")
    if path is None or path.suffix != SUFFIX:
        raise BadRequest(f"no LoRA of that name in {folder}")
    return path


def uses_of(folder: Path, wishes: Iterable[Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    """What a request's `loras` mean here, see `jobs.lorawish`. Raises BadRequest naming what is not there."""
    found, problems = [], []
    for wish in wishes:
        strength = float(wish.get("strength", 1))
        try:
            path = find_lora(folder, wish["name"])
            found.append(LoraUse(path, strength, float(wish.get("clip", strength))))
        except BadRequest as err:
            problems.append(Problem("loras", wish["name"], f"{wish['name']}: {err}"))
    if problems:
        raise BadRequest(problems)
    return tuple(found)
