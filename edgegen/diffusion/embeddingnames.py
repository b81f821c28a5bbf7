"""Embeddings' names in prompts, as ComfyUI writes them. No numpy: the front asks, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MARK = "embedding:"
SUFFIX = ".safetensors"
PICKLES = (".pt", ".bin")
MAX_FILES = 10_000
_SHOWN = 8
# At the door no weights are taken apart: a name in parentheses ends at its weight's colon.
_ASKED = re.compile(r"(?:^|(?<=[\s(]))embedding:([^\s():]+)")


def asked_embeddings(text: str) -> list[str]:
    """The names of a prompt's `embedding:NAME`, weighted or not, without commas behind."""
    return [name for found in _ASKED.findall(text) if (name := found.rstrip(","))]


def plain_name(name: str) -> str:
    """Without its suffix, and with `/` between folders."""
    plain = name.replace("\\", "/")
    return next((plain.removesuffix(end) for end in (SUFFIX, *PICKLES) if plain.endswith(end)), plain)


def embedding_names(folder: Path | None, suffixes: Iterable[str] = (SUFFIX,)) -> list[str]:
    """Those in a folder, without suffix, sorted; of folders below with their path."""
    if folder is None or not folder.is_dir():
        return []
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.suffix in suffixes and path.is_file():
            found.add(path.relative_to(folder).with_suffix("").as_posix())
        if len(found) >= MAX_FILES:
            break
    return sorted(found)


def embedding_problem(text: str, folder: Path | None) -> str | None:
    """Why a prompt in ComfyUI's syntax asks for an embedding that cannot be had, by the names of files alone;
    None when it does not."""
    for name in asked_embeddings(text):
        if plain_name(name) not in embedding_names(folder):
            is_pickle = plain_name(name) in embedding_names(folder, PICKLES)
            return pickled_embedding(name) if is_pickle else unknown_embedding(name, embedding_names(folder))
    return None


def pickled_embedding(name: str) -> str:
    """What is said of an old file."""
    return (
        f"asks for {MARK}{name[:60]}, which is there as a pickle only ({' or '.join(PICKLES)}): reading one "
        "may run code. Turn it into .safetensors on a PC, see docs/WORKFLOWS.md, Embeddings"
    )


def unknown_embedding(name: str, known: Iterable[str]) -> str:
    """What is said of an embedding that is not there."""
    names = sorted(known)
    if near := get_close_matches(plain_name(name), names, n=1):
        hint = f"did you mean {MARK}{near[0]}?"
    else:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        hint = f"there are {', '.join(names[:_SHOWN])}{more}" if names else "there are none"
    return (
        f"asks for {MARK}{name[:60]}, but no embedding of that name is here (workflow.embedding_dir); {hint}"
    )
