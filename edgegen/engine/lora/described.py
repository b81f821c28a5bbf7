"""What a LoRA file is, told without merging it: from its names, shapes and its maker's notes.

Notes are text from outside: they are cut, counted and never trusted. Their keys are those of kohya's trainer
(`ss_...`, github.com/kohya-ss/sd-scripts) and of the model metadata standard (`modelspec....`,
github.com/Stability-AI/ModelSpec).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import LoraError, PackError
from ...pack import PackFolder
from .adapter import Adapter
from .table import LayerTable

MAX_TEXT = 500
MAX_WORDS = 10
TITLE = ("modelspec.title", "ss_output_name")
BASE = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")
TRIGGER = ("modelspec.trigger_phrase", "modelspec.trigger_words", "trigger_words")
NOTES = {
    "description": ("modelspec.description", "ss_training_comment"),
    "author": ("modelspec.author",),
    "licence": ("modelspec.license",),
}


@dataclass(frozen=True)
class Described:
    """A file as its maker tells of it, and as it is.

    Attributes:
        kinds, ranks, alphas: all that occur; an alpha is as it was written down.
        changes: graph -> how many of its layers are changed.
        words: what is to stand in a prompt; by the maker, else what most of the pictures were tagged with.
        words_told: whether by the maker.
        base, title, description, author, licence: "" where nothing is told.
    """

    kinds: list[str]
    ranks: list[int]
    alphas: list[float]
    changes: dict[str, int]
    words: list[str] = field(default_factory=list)
    words_told: bool = False
    title: str = ""
    base: str = ""
    description: str = ""
    author: str = ""
    licence: str = ""


def described(adapter: Adapter) -> Described:
    """Raises LoraError: an alpha holds what is no number."""
    notes = adapter.file.metadata
    told = _first(notes, TRIGGER)
    words = [word.strip() for word in told.split(",") if word.strip()] if told else frequent_tags(notes)
    return Described(
        adapter.kinds,
        adapter.ranks,
        adapter.alphas,
        {graph: len(changes) for graph, changes in adapter.changes.items() if changes},
        words[:MAX_WORDS],
        bool(told),
        _first(notes, TITLE),
        _first(notes, BASE),
        **{name: _first(notes, keys) for name, keys in NOTES.items()},
    )


def _first(notes: Mapping[str, str], keys: tuple[str, ...]) -> str:
    found = (" ".join(notes.get(key, "").split()) for key in keys)
    return next((text[:MAX_TEXT] for text in found if text and text != "None"), "")


def frequent_tags(notes: Mapping[str, str]) -> list[str]:
    """The words that most pictures of the training were tagged with: kohya's `ss_tag_frequency`."""
    try:
        folders = json.loads(notes.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and tag.strip():
                counts[" ".join(tag.split())[:MAX_TEXT]] += count
    return [tag for tag, _ in counts.most_common(MAX_WORDS)]


@dataclass(frozen=True)
class Fit:
    """How a file fits a pack.

    Attributes:
        pack: its name. layers: changes that the pack's layers take, of `of`; those behind a text encoder's
            end do not count.
        problem: why the pack refuses the file; "": it takes it.
    """

    pack: str
    layers: int
    of: int
    problem: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.pack, "layers": self.layers, "of": self.of, "problem": self.problem or None}


def fit(adapter: Adapter, pack: PackFolder) -> Fit:
    """By names and shapes, as `layers.json` of the pack tells them; nothing else of the pack is read."""
    layers, of, problem = 0, 0, ""
    for role, changes in adapter.changes.items():
        if not changes:
            continue
        of += len(changes)
        if role not in pack.manifest.graphs:
            problem = problem or f"it changes {role}, which pack {pack.name} does not have"
            continue
        try:
            matched = adapter.match(role, LayerTable(pack, role, is_hashed=False))
        except (LoraError, PackError) as err:
            problem = problem or str(err)
            continue
        layers, of = layers + len(matched.fitting), of - len(matched.beyond)
        problem = problem or adapter.misfit(role, matched)
    return Fit(pack.name, layers, of, problem)
