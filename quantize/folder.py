"""Reading a diffusers folder: what it must hold. Weights stay where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .configs import Configs
from .refusal import CONVERT, PICKLES, SourceError, raise_if
from .tensorfile import read_tensors

COMPONENTS = ("text_encoder", "unet", "vae", "scheduler", "tokenizer")
SECOND = ("text_encoder_2", "tokenizer_2")  # of SDXL
CONFIG_MAX_BYTES = 1 << 20


def read_folder(folder: Path) -> Configs:
    """Component -> config. Raises SourceError naming all that is missing."""
    problems: list[str] = []
    there = [name for name in SECOND if (folder / name).exists()]
    configs = {name: _component(folder, name, problems) for name in (*COMPONENTS, *there)}
    raise_if(folder, problems)
    return configs


def _component(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    part = folder / name
    if not part.is_dir():
        problems.append(f"{name}/ is missing")
        return {}
    if name.startswith("tokenizer"):
        problems += tokenizer_problems(part)
        return {}
    if name != "scheduler":
        problems += weight_problems(part)
    return read_config(part / ("scheduler_config.json" if name == "scheduler" else "config.json"), problems)


def tokenizer_problems(part: Path) -> list[str]:
    """What a tokenizer's folder lacks."""
    vocabulary = part / "vocab.json", part / "merges.txt"
    if (part / "tokenizer.json").is_file() or all(p.is_file() for p in vocabulary):
        return []
    return [f"{part.name}/ holds neither tokenizer.json nor vocab.json with merges.txt"]


def weight_problems(part: Path) -> list[str]:
    """What is wrong with the safetensors of a folder; only their headers are read."""
    if files := sorted(part.glob("*.safetensors")):
        return [problem for file in files if (problem := _file_problem(file))]
    pickled = sorted(p.name for p in part.iterdir() if p.suffix in PICKLES)
    if pickled:
        return [
            f"{part.name}/ has only pickled weights ({pickled[0]}), which run code when opened: {CONVERT}"
        ]
    return [f"{part.name}/ has no weights: no file *.safetensors"]


def _file_problem(file: Path) -> str | None:
    try:
        read_tensors(file)
    except SourceError as err:
        return str(err)
    return None


def read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON object; empty, and a problem more, when there is none."""
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > CONFIG_MAX_BYTES:
            raise ValueError(f"larger than {CONFIG_MAX_BYTES} bytes")
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        return data
    except FileNotFoundError:
        problems.append(f"{where} is missing")
    except (OSError, ValueError, RecursionError) as err:
        problems.append(f"{where}: {err}")
    return {}
